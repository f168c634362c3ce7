"""The job's own optimizer, over the whole model: whatever its class does, it does as in a plain loop.

One process steps it; after each step its whole content is written to shared memory, so that another one can go on.
What of its groups' settings the optimizer changes itself goes on with it (Prodigy's `d`); the others are the job's and
its schedule's, the same in every process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unisono.errors import JobError, UsageError
from unisono.frameworks.protocol import Array
from unisono.frameworks.pytorch.stages.travel import dtype_name
from unisono.frameworks.pytorch.state_tensors import StateTensors
from unisono.gradients.regions import Kind
from unisono.memory.versions import Versions
from unisono.trees.marks import mark
from unisono.trees.reader import Reader
from unisono.trees.references import Classes
from unisono.trees.writer import Fixed, Writer
from unisono.values.untrusted import Malformed, check


class WholeOptimizer:
    """An optimizer and its state, in one process.

    Args:
        master: the job's optimizer, over the model's own parameters.
        model: the model.
        root: what a person calls it.

    Attributes:
        averages: it trains the parameters as one set and evaluates them as another (schedulefree).
        own: by group the settings that it changes itself.
    """

    def __init__(self, master: Any, model: nn.Module, root: str) -> None:
        self.master, self.model, self.root = master, model, root
        self.averages = callable(getattr(master, "train", None)) and callable(getattr(master, "eval", None))
        if self.averages:
            master.train()
        self._tensors, self._classes = StateTensors(model), Classes(master)
        self._fixed: Fixed | None = None
        self.own: dict[int, set[str]] = {}
        self._scheduled: set[str] = set()
        self._held: int | None = None
        self._writer = self._written()[0]
        self._fixed = self._writer.fixed
        self.versions: Versions | None = None

    @property
    def shared(self) -> set[int]:
        """Identities of the objects that hold its state."""
        return self._writer.shared

    @property
    def groups(self) -> Sequence[dict[str, Any]]:
        """The groups of all optimizers in it."""
        return self._writer.groups

    def content(self) -> tuple[Any, Mapping[str, Array]]:
        """The state as plain values and arrays, which may share its memory."""
        return self._written()[1]

    def _written(self) -> tuple[Writer, tuple[Any, dict[str, Array]]]:
        writer = Writer(self.root, self._tensors, self._classes, self._fixed, self.own)
        plain, arrays = writer.write(self.master)
        plain["own"] = [sorted(self.own.get(group, ())) for group in range(len(writer.groups))]
        plain["note"] = float(self.master.param_groups[0].get("lr", 0.0))
        return writer, (plain, arrays)

    def read(self, plain: Any, arrays: Mapping[str, Array]) -> None:
        """Go on from a state that `content` gave, here or in another process, or that a file holds.

        Raises:
            JobError: it is not one of this optimizer's.
        """
        assert self._fixed is not None
        try:
            self.own = {group: set(names) for group, names in enumerate(check(plain.get("own"), [[str]]))}
            Reader(self._tensors, self._classes, self._fixed).read(plain, arrays, self.master)
        except Malformed as error:
            raise JobError(
                f"a saved state must be that of the job's optimizer; {self.root}'s is not: {error}. Go on from "
                "another checkpoint, or with the job that the run was made with."
            ) from error

    # -- schedules -----------------------------------------------------------------------------------------

    def settings(self) -> list[dict[str, Any]]:
        """Marks of every group's settings."""
        return [
            {name: mark(value, self._tensors.mark) for name, value in group.items() if name != "params"}
            for group in self.groups
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
                    f"a setting of an optimizer is changed by its schedule or by itself; {self.root} and job.schedule "
                    f"both change {min(both)!r}. Leave out the schedule, or give the optimizer's own another name."
                )
            self.own.setdefault(group, set()).update(names)

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

    def step(self, gradients: Sequence[tuple[nn.Parameter, Tensor | None]], within: range) -> None:
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

    def evaluated(self, into: Mapping[nn.Parameter, Tensor], version: int) -> None:
        """Write what the parameters are in evaluation; the trained ones stay as they are, bit for bit.

        Args:
            into: by parameter where.
            version: the state, which has been written.
        """
        assert self.versions is not None
        trained = [parameter.detach().clone() for parameter in into]
        settings = [dict(group) for group in self.groups]
        with torch.no_grad():
            self.master.eval()
            for (parameter, place), old in zip(into.items(), trained, strict=True):
                place.copy_(parameter)
                parameter.copy_(old)
        for group, values in zip(self.groups, settings, strict=True):
            group.update(values)
        self.read(*self.versions.read(version))


def whole_optimizers(masters: Sequence[Any], kinds: Sequence[Kind], model: nn.Module) -> dict[int, WholeOptimizer]:
    """Those of a job's optimizers that are stepped as they are, by their place among all.

    Raises:
        UsageError: one has parameters of several dtypes, or shares with another what it keeps.
    """
    found: dict[int, WholeOptimizer] = {}
    for index, (master, kind) in enumerate(zip(masters, kinds, strict=True)):
        if kind != "whole":
            continue
        name = type(master).__name__
        dtypes = {dtype_name(p) for group in master.param_groups for p in group["params"]}
        if len(dtypes) > 1:
            raise UsageError(
                "an optimizer that updates the whole model at once needs parameters of one dtype; "
                f"{name} has {' and '.join(sorted(dtypes))}. Give each dtype an optimizer of its own: a list of them."
            )
        made = WholeOptimizer(master, model, "optimizer" if len(masters) == 1 else f"optimizer[{index}]")
        if any(made.shared & other.shared for other in found.values()):
            raise UsageError(
                f"two optimizers may not share an object that they keep things in; {name} shares one with another of "
                "job.optimizer's. Give each of them its own."
            )
        found[index] = made
    return found


def _changed(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[set[str]]:
    return [
        {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
        for old, new in zip(before, after, strict=True)
    ]
