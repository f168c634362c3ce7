"""The update of the whole model by the job's own optimizer, in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from unisono.errors import JobError
from unisono.frameworks.protocol import Array
from unisono.frameworks.pytorch.whole import WholeOptimizer
from unisono.gradients.regions import Chunk, Region


class WholeUpdate:
    """See `ChunkUpdate`: the whole model in one go.

    Args:
        whole: the optimizer.
        region, chunk: what is updated.
        gradients: the chunk's, in shared memory.
        parameters: the model's, by number.
        averaged: by number where they lie that are evaluated instead.
        begin: makes this process ready for the update: the model's parameters are those that are trained, and the
            generators are seeded for it; gives the number of steps done.
    """

    def __init__(
        self, whole: WholeOptimizer, region: Region, chunk: Chunk, gradients: Array,
        parameters: Sequence[torch.nn.Parameter], averaged: Mapping[int, torch.Tensor], begin: Callable[[], int],
    ) -> None:  # fmt: skip
        self._whole, self._begin = whole, begin
        self._numbered = [(place.number, parameters[place.number]) for place in region.parameters]
        self._places = [
            (place.offset - chunk.start, place.end - chunk.start, place.shape) for place in region.parameters
        ]
        self._gradients = gradients
        self._into = {parameters[number]: averaged[number] for number, _ in self._numbered if number in averaged}

    def step(self, before: Array, after: Array, used: Array) -> None:
        """See `ChunkUpdate.step`."""
        whole, done = self._whole, self._begin()
        whole.turn_to(done)
        address = self._gradients.ctypes.data
        homes = [(parameter, parameter.data) for _, parameter in self._numbered]
        try:
            whole.step(self._of_this_step(used), range(address, address + self._gradients.nbytes))
            whole.write(done + 1)
            if self._moved_back(homes):
                whole.let_go()
            if self._into:
                whole.evaluated(self._into, done + 1)
        finally:
            for _, parameter in self._numbered:
                parameter.grad = None

    @staticmethod
    def _moved_back(homes: Sequence[tuple[torch.nn.Parameter, torch.Tensor]]) -> bool:
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
            for (number, parameter), (start, stop, shape) in zip(self._numbered, self._places, strict=True)
        ]
