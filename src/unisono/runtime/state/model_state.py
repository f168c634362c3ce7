"""Where the model lives: parameters, buffers and the optimizers' state, as views of the segment, and as files hold it.

What an update writes anew lies there twice, for even and odd numbers of updates that have touched it, so that a
successor still finds what the update began with. `updates` is that number: each step's update touches all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from unisono.checkpoint.parameters import Tensors
from unisono.errors import UsageError
from unisono.frameworks.protocol import Array
from unisono.gradients.regions import Parameter, Region
from unisono.memory.segment import Segment
from unisono.memory.versions import Versions
from unisono.runtime.state.layout import HostLayout
from unisono.values.untrusted import Malformed, check, parsed

MOST_NESTED = 900
"""Lists within each other in the text of a state that is a tree: what Python itself can write."""


class ModelState:
    """The one place that knows where a model's values lie.

    Args:
        layout: the segment's.
        segment: it.
    """

    def __init__(self, layout: HostLayout, segment: Segment) -> None:
        self.layout, self.segment = layout, segment
        self._places: dict[int, tuple[int, Parameter]] = {
            parameter.number: (region.index, parameter) for region in layout.regions for parameter in region.parameters
        }
        description = layout.description
        self.trees = {
            index: Versions(
                [segment[f"tree/{index}/{parity}"] for parity in range(2)], f"the state of {settings['class']}"
            )
            for index, (held, settings) in enumerate(zip(description.states, description.optimizers, strict=True))
            if held.tree
        }
        """The states that are trees, by their optimizer's number."""

    def vector(self, region: Region) -> Array:
        """The parameters of a region."""
        return self.segment[f"parameters/{region.index}"]

    def gradients(self, pipe: int, region: int) -> Array:
        """A pipe's partial sums of a region: a row each."""
        return self.segment[f"gradients/{pipe}/{region}"]

    def parameter(self, number: int) -> Array:
        """A parameter's elements, in its shape."""
        if self.layout.description.owners[number] is None:
            return self.segment[f"frozen/{number}"]
        region, place = self._places[number]
        return place.of(self.segment[f"parameters/{region}"])

    def parameters(self) -> list[Array]:
        """Every parameter by number."""
        return [self.parameter(number) for number in range(len(self.layout.description.parameters))]

    def averaged(self) -> dict[int, Array]:
        """The parameters that are evaluated and saved instead of those that are trained, by number."""
        return {
            parameter.number: parameter.of(self.segment[f"averaged/{region.index}"])
            for region in self.layout.regions if self.layout.description.states[region.optimizer].averaged
            for parameter in region.parameters
        }  # fmt: skip

    def buffers(self, updates: int) -> list[Array]:
        """Every buffer after so many updates."""
        return [self.segment[f"buffer/{index}/{updates & 1}"] for index in range(len(self.layout.description.buffers))]

    def scalars(self, updates: int) -> Array:
        """The optimizers' numbers after so many updates: a row a parameter."""
        scalars: Array = self.segment["scalars"][updates & 1]
        return scalars

    def state(self, number: int) -> dict[str, Array]:
        """A parameter's optimizer state by key."""
        return {
            vector.key: vector.places[number].of(self.segment[vector.area])
            for vector in self.layout.vectors[self._places[number][0]]
            if number in vector.places
        }

    # -- named tensors, written out and brought back -----------------------------------------------------------

    def saved(self, updates: int) -> Tensors:
        """What the final file holds, by `state_dict()` name."""
        description = self.layout.description
        found = Tensors()
        buffers, values = self.buffers(updates), dict(enumerate(self.parameters())) | self.averaged()
        for source in description.saved:
            if source.kind == "buffer":
                found.add(source.name, buffers[source.index], description.buffers[source.index].dtype)
            else:
                found.add(source.name, values[source.index], description.parameters[source.index].dtype)
        return found

    def optimizer(self, updates: int) -> Tensors:
        """The optimizers' state: `PARAMETER/KEY`; and what `state_dict()` leaves out: `buffer/NAME`.

        A state that is a tree is arrays named by their place in it, and its text as `optimizer.NUMBER`.
        """
        description = self.layout.description
        found = Tensors()
        for index, tree in self.trees.items():
            plain, arrays = tree.read(updates)
            for name, array in arrays.items():
                found.add(self._of(index, name), array, str(array.dtype))
            text = bytearray(json.dumps([list(arrays), plain]).encode())
            found.add(f"optimizer.{index}", np.frombuffer(text, np.uint8), "uint8")
        for number in self.averaged():
            values = self.parameter(number)
            found.add(f"{description.parameters[number].name}/trained", values, str(values.dtype))
        for number, (spec, owned) in enumerate(zip(description.parameters, description.owners, strict=True)):
            if owned is None or description.states[owned].tree:
                continue
            for key, array in self.state(number).items():
                found.add(f"{spec.name}/{key}", array, str(array.dtype))
            found.add(f"{spec.name}/scalars", self.scalars(updates)[number], "float64")
        kept = {source.index for source in description.saved if source.kind == "buffer"}
        for index, (spec, array) in enumerate(zip(description.buffers, self.buffers(updates), strict=True)):
            if index not in kept:
                found.add(f"buffer/{spec.name}", array, spec.dtype)
        return found

    def restore(self, parameters: Mapping[str, Array], optimizer: Mapping[str, Array], updates: int) -> None:
        """Write back what `saved` and `optimizer` gave after so many updates.

        Raises:
            UsageError: a tensor is missing or has another shape.
        """
        own = [(self.saved(updates), parameters)]
        if optimizer:
            self._restore_trees(optimizer, updates)
            own.append((self.optimizer(updates), optimizer))
        for tensors, values in own:
            for name, array in tensors.arrays.items():
                there = values.get(name)
                if there is None or (there.shape, there.dtype) != (array.shape, array.dtype):
                    found = "nothing" if there is None else f"{there.dtype} {list(there.shape)}"
                    raise _misfit(f"{name!r} is {array.dtype} {list(array.shape)} here and {found} there")
                array[...] = there
        if not optimizer:
            for number, average in self.averaged().items():
                self.parameter(number)[...] = average

    def _restore_trees(self, optimizer: Mapping[str, Array], updates: int) -> None:
        for index, tree in self.trees.items():
            text = optimizer.get(f"optimizer.{index}")
            if text is None:
                raise _misfit(f"'optimizer.{index}' is not there")
            try:
                names, plain = check(parsed(text.tobytes(), MOST_NESTED), list)
                arrays = {name: optimizer[self._of(index, name)] for name in check(names, [str])}
                tree.write(updates, check(plain, dict), arrays)
            except (Malformed, KeyError, ValueError) as error:
                raise _misfit(f"'optimizer.{index}' does not: {error}") from error

    def _of(self, index: int, name: str) -> str:
        """What an array of an optimizer's tree is called in files, where all optimizers' lie side by side."""
        names = {spec.name for spec in self.layout.description.parameters}
        return name if name.partition("/")[0] in names else f"optimizer.{index}/{name}"


def _misfit(what: str) -> UsageError:
    return UsageError(
        f"saved tensors must fit the job's model and optimizer; {what}. Use the job that the run was made with."
    )
