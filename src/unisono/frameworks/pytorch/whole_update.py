"""The update of the whole model by the job's own optimizer, in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from unisono.errors import JobError
from unisono.frameworks.protocol import Array, Scratch
from unisono.frameworks.pytorch.whole import WholeOptimizer


class WholeUpdate:
    """See `ChunkUpdate`: the whole model in one go.

    Args:
        whole: the optimizer.
        scratch: what is updated.
        parameters: the model's, by number.
        averaged: by number where they lie that are evaluated instead.
        begin: makes this process ready for the update: the model's parameters are those that are trained, and the
            generators are seeded for it; gives the number of steps done.
    """

    def __init__(
        self, whole: WholeOptimizer, scratch: Scratch, parameters: Sequence[nn.Parameter],
        averaged: Mapping[int, Tensor], begin: Callable[[], int],
    ) -> None:  # fmt: skip
        self._whole, self._scratch, self._begin = whole, scratch, begin
        numbers = [piece.parameter.number for piece in scratch.pieces]
        self._parameters = [parameters[number] for number in numbers]
        self._into = {parameters[number]: averaged[number] for number in numbers if number in averaged}

    def step(self, before: Array, after: Array, used: Array) -> None:
        """See `ChunkUpdate.step`."""
        whole, done = self._whole, self._begin()
        whole.turn_to(done)
        gradients = self._scratch.gradients
        homes = [(parameter, parameter.data) for parameter in self._parameters]
        try:
            address = gradients.ctypes.data
            whole.step(self._of_this_step(used), range(address, address + gradients.nbytes))
            whole.write(done + 1)
            if self._moved_back(homes):
                whole.let_go()
            if self._into:
                whole.evaluated(self._into, done + 1)
        finally:
            for parameter in self._parameters:
                parameter.grad = None

    @staticmethod
    def _moved_back(homes: Sequence[tuple[nn.Parameter, Tensor]]) -> bool:
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

    def _of_this_step(self, used: Array) -> list[tuple[nn.Parameter, Tensor | None]]:
        held = self._scratch
        return [
            (parameter, torch.from_numpy(held.shaped(held.gradients, piece)) if used[piece.parameter.number] else None)
            for parameter, piece in zip(self._parameters, held.pieces, strict=True)
        ]
