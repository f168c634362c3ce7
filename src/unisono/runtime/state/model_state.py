"""Where the model lives: parameters, buffers and the optimizers' state, as views of the segment.

What an update writes anew lies there twice, for even and odd numbers of updates that have touched it, so that a
successor still finds what the update began with. `updates` is that number: each step's update touches all.
"""

from __future__ import annotations

from unisono.frameworks.protocol import Array
from unisono.gradients.regions import Parameter, Region
from unisono.memory.segment import Segment
from unisono.memory.versions import Versions
from unisono.runtime.state.layout import HostLayout


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
