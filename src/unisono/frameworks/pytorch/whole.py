"""The update by the job's own optimizer, over the whole model: whatever its class does, it does as in a plain loop.

One process steps it; after each step its whole content is written to shared memory, so that another one can go on.
What of its groups' settings the optimizer changes itself goes on with it (Prodigy's `d`); the others are the job's and
its schedule's, the same in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from unisono.errors import JobError, UsageError
from unisono.frameworks.protocol import Array
from unisono.frameworks.pytorch.state_tensors import StateTensors
from unisono.gradients.regions import Chunk, Kind, Region
from unisono.memory.versions import Versions
from unisono.trees.marks import mark
from unisono.trees.reader import Reader
from unisono.trees.references import Classes
from unisono.trees.writer import Fixed, Writer
from unisono.values.untrusted import Malformed, check

TRIED = 8
"""Steps of the probe at most: an optimizer may gather gradients for a few before it changes a parameter."""


def averages(master: Any) -> bool:
    """Whether an optimizer trains the parameters as one set and evaluates them as another (schedulefree)."""
    return callable(getattr(master, "train", None)) and callable(getattr(master, "eval", None))


class Kept:
    """An optimizer and its state, in one process.

    Args:
        master: the job's optimizer, over the model's own parameters.
        model: the model.
        root: what a person calls it.
    """

    def __init__(self, master: Any, model: torch.nn.Module, root: str) -> None:
        self.master, self._model, self._root = master, model, root
        self.averages = averages(master)
        if self.averages:
            master.train()
        self._tensors, self._classes = StateTensors(model), Classes(master)
        self._fixed: Fixed | None = None
        self._own: dict[int, set[str]] = {}
        self._scheduled: set[str] = set()
        self._held: int | None = None
        self._writer = self._written()[0]
        self._fixed = self._writer.fixed
        self.versions: Versions | None = None

    @property
    def shared(self) -> set[int]:
        """Identities of the objects that hold its state."""
        return self._writer.shared

    def content(self) -> tuple[Any, Mapping[str, Array]]:
        """The state as plain values and arrays, which may share its memory."""
        return self._written()[1]

    def _written(self) -> tuple[Writer, tuple[Any, dict[str, Array]]]:
        writer = Writer(self._root, self._tensors, self._classes, self._fixed, self._own)
        plain, arrays = writer.write(self.master)
        plain["own"] = [sorted(self._own.get(group, ())) for group in range(len(writer.groups))]
        plain["note"] = float(self.master.param_groups[0].get("lr", 0.0))
        return writer, (plain, arrays)

    def read(self, plain: Any, arrays: Mapping[str, Array]) -> None:
        """Go on from a state that `content` gave, here or in another process, or that a file holds.

        Raises:
            JobError: it is not one of this optimizer's.
        """
        assert self._fixed is not None
        try:
            self._own = {group: set(names) for group, names in enumerate(check(plain.get("own"), [[str]]))}
            Reader(self._tensors, self._classes, self._fixed).read(plain, arrays, self.master)
        except Malformed as error:
            raise JobError(
                f"a saved state must be that of the job's optimizer; {self._root}'s is not: {error}. Go on from "
                "another checkpoint, or with the job that the run was made with."
            ) from error

    # -- schedules -----------------------------------------------------------------------------------------

    def settings(self) -> list[dict[str, Any]]:
        """Marks of every group's settings."""
        return [
            {name: mark(value, self._tensors.mark) for name, value in group.items() if name != "params"}
            for group in self._writer.groups
        ]

    def scheduled(self, before: Sequence[Mapping[str, Any]]) -> None:
        """Take note of what a schedule has changed since."""
        self._scheduled.update(*_changed(before, self.settings()))

    def _claim(self, before: Sequence[Mapping[str, Any]]) -> None:
        """Take note of what a step has changed: the optimizer's own settings.

        Raises:
            JobError: the schedule changes one of them too.
        """
        for group, names in enumerate(_changed(before, self.settings())):
            both = names & self._scheduled
            if both:
                raise JobError(
                    f"a setting of an optimizer is changed by its schedule or by itself; {self._root} and job.schedule "
                    f"both change {min(both)!r}. Leave out the schedule, or give the optimizer's own another name."
                )
            self._own.setdefault(group, set()).update(names)

    def learning_rate(self, version: int) -> float:
        """The first group's after so many steps: the schedule's, or what the optimizer has left."""
        if "lr" in self._scheduled or self.versions is None:
            return float(self.master.param_groups[0].get("lr", 0.0))
        return self.versions.note(version)

    # -- steps ---------------------------------------------------------------------------------------------

    def turn_to(self, version: int) -> None:
        """Hold the state after so many steps."""
        if self._held != version:
            assert self.versions is not None
            self.read(*self.versions.read(version))
        self._held = None

    def step(self, gradients: Sequence[tuple[torch.nn.Parameter, torch.Tensor | None]], within: range) -> None:
        """One step.

        Args:
            gradients: of each parameter.
            within: addresses of the memory in which they lie.
        """
        before = self.settings()
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            self.master.step()
        self._tensors.gradients = within
        self._claim(before)

    def write(self, version: int) -> None:
        """Write the state after so many steps, from which this process may go on too."""
        assert self.versions is not None
        self._writer, content = self._written()
        self.versions.write(version, *content)
        self._held = version

    def let_go(self) -> None:
        """Go on from what was written: the state here may lie over memory that parameters have left."""
        self._held = None

    def evaluated(self, into: Mapping[torch.nn.Parameter, torch.Tensor], version: int) -> None:
        """Write what the parameters are in evaluation; the trained ones stay as they are, bit for bit.

        Args:
            into: by parameter where.
            version: the state, which has been written.
        """
        assert self.versions is not None
        trained = [parameter.detach().clone() for parameter in into]
        settings = [dict(group) for group in self._writer.groups]
        with torch.no_grad():
            self.master.eval()
            for (parameter, place), old in zip(into.items(), trained, strict=True):
                place.copy_(parameter)
                parameter.copy_(old)
        for group, values in zip(self._writer.groups, settings, strict=True):
            group.update(values)
        self.read(*self.versions.read(version))

    # -- probe ---------------------------------------------------------------------------------------------

    def probe(self) -> None:
        """Try a step, and undo it.

        Raises:
            UsageError: it raises, it changes nothing, or what it does not hold.
            JobError: something changes that cannot be kept.
        """
        self._own = {group: set(values) - {"params"} for group, values in enumerate(self._writer.groups)}
        settings = [dict(group) for group in self._writer.groups]
        plain, arrays = self.content()
        first = {name: array.copy() for name, array in arrays.items()}
        tensors = dict(self._model.named_parameters()) | dict(self._model.named_buffers())
        before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        own = {id(parameter) for group in self.master.param_groups for parameter in group["params"]}
        try:
            changed = self._tried(tensors, before)
            self._written()
        finally:
            for name, tensor in tensors.items():
                tensor.grad = None
                tensor.data.copy_(before[name])
            for group, values in zip(self._writer.groups, settings, strict=True):
                group.clear()
                group.update(values)
            self.read(plain, first)
            self._own = {}
        if not changed & {name for name, tensor in tensors.items() if id(tensor) in own}:
            raise UsageError(
                f"an optimizer must change the parameters that it is given; {self._root} changed none in {TRIED} steps "
                "with gradients that were not 0. Let its step() update the parameters of its param_groups."
            )
        others = sorted(name for name in changed if id(tensors[name]) not in own)
        if others:
            raise UsageError(
                f"an optimizer may change the parameters of its param_groups; {self._root} changes {others[0]!r} too. "
                "Keep such a copy in the optimizer itself: self.copies = [p.clone() for p in params]."
            )

    def _tried(self, tensors: Mapping[str, torch.Tensor], before: Mapping[str, torch.Tensor]) -> set[str]:
        changed: set[str] = set()
        for number in range(TRIED):
            gradients = [
                (parameter, _stand_in(parameter, number))
                for group in self.master.param_groups for parameter in group["params"]
            ]  # fmt: skip
            try:
                self.step(gradients, range(0))
            except JobError:
                raise
            except Exception as error:
                raise UsageError(
                    f"an optimizer steps from gradients alone, without a closure; trying {self._root}.step() raised "
                    f"{type(error).__name__}: {error}. Compute what it needs from p.grad and its own state."
                ) from error
            changed = {name for name, tensor in tensors.items() if not _same(tensor, before[name])}
            if changed:
                break
        return changed


def kept_whole(masters: Sequence[Any], kinds: Sequence[Kind], model: torch.nn.Module) -> dict[int, Kept]:
    """Those of a job's optimizers that are stepped as they are, by their place among all.

    Raises:
        UsageError: one has parameters of several dtypes, or shares with another what it keeps.
    """
    kept: dict[int, Kept] = {}
    for index, (master, kind) in enumerate(zip(masters, kinds, strict=True)):
        if kind != "whole":
            continue
        name = type(master).__name__
        dtypes = {str(p.dtype).removeprefix("torch.") for group in master.param_groups for p in group["params"]}
        if len(dtypes) > 1:
            raise UsageError(
                "an optimizer that updates the whole model at once needs parameters of one dtype; "
                f"{name} has {' and '.join(sorted(dtypes))}. Give each dtype an optimizer of its own: a list of them."
            )
        found = Kept(master, model, "optimizer" if len(masters) == 1 else f"optimizer[{index}]")
        if any(found.shared & other.shared for other in kept.values()):
            raise UsageError(
                f"two optimizers may not share an object that they keep things in; {name} shares one with another of "
                "job.optimizer's. Give each of them its own."
            )
        kept[index] = found
    return kept


def _stand_in(parameter: torch.Tensor, number: int) -> torch.Tensor:
    """A gradient of which no element is 0."""
    return torch.linspace(-1, 1.5 + number, 2 * parameter.numel(), dtype=parameter.dtype)[::2].reshape(parameter.shape)


def _same(tensor: torch.Tensor, before: torch.Tensor) -> bool:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).equal(before.contiguous().view(-1).view(torch.uint8))


def _changed(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[set[str]]:
    return [
        {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
        for old, new in zip(before, after, strict=True)
    ]


class WholeUpdate:
    """See `ChunkUpdate`: the whole model in one go.

    Args:
        kept: the optimizer.
        region, chunk: what is updated.
        gradients: the chunk's, in shared memory.
        parameters: the model's, by number.
        averaged: by number where they lie that are evaluated instead.
        begin: makes this process ready for the update: the model's parameters are those that are trained, and the
            generators are seeded for it; gives the number of steps done.
    """

    def __init__(
        self, kept: Kept, region: Region, chunk: Chunk, gradients: Array, parameters: Sequence[torch.nn.Parameter],
        averaged: Mapping[int, torch.Tensor], begin: Callable[[], int],
    ) -> None:  # fmt: skip
        self._kept, self._begin = kept, begin
        self._members = [(place.number, parameters[place.number]) for place in region.parameters]
        self._places = [
            (place.offset - chunk.start, place.end - chunk.start, place.shape) for place in region.parameters
        ]
        self._gradients = gradients
        self._into = {parameters[number]: averaged[number] for number, _ in self._members if number in averaged}

    def step(self, before: Array, after: Array, used: Array) -> None:
        """See `ChunkUpdate.step`."""
        kept, done = self._kept, self._begin()
        kept.turn_to(done)
        address = self._gradients.ctypes.data
        homes = [(parameter, parameter.data) for _, parameter in self._members]
        try:
            kept.step(self._of_this_step(used), range(address, address + self._gradients.nbytes))
            kept.write(done + 1)
            if self._brought_home(homes):
                kept.let_go()
            if self._into:
                kept.evaluated(self._into, done + 1)
        finally:
            for _, parameter in self._members:
                parameter.grad = None

    @staticmethod
    def _brought_home(homes: Sequence[tuple[torch.nn.Parameter, torch.Tensor]]) -> bool:
        """Where a step has put new tensors into parameters (`p.data = p.data - …`), move what they hold to the memory
        that all processes compute with; returns whether one has.

        Raises:
            JobError: one has another shape.
        """
        moved = [(parameter, home) for parameter, home in homes if parameter.data_ptr() != home.data_ptr()]
        for parameter, home in moved:
            if parameter.shape != home.shape:
                raise JobError(
                    f"a parameter keeps its shape; a step of the optimizer has made {list(parameter.shape)} of "
                    f"{list(home.shape)}. Write its values: p.copy_(new)."
                )
            home.copy_(parameter.data)
            parameter.data = home
        return bool(moved)

    def _of_this_step(self, used: Array) -> list[tuple[torch.nn.Parameter, torch.Tensor | None]]:
        return [
            (parameter, torch.from_numpy(self._gradients[start:stop]).view(shape) if used[number] else None)
            for (number, parameter), (start, stop, shape) in zip(self._members, self._places, strict=True)
        ]
