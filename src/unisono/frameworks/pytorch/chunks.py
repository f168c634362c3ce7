"""The update of one chunk by a torch optimizer, in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from unisono.frameworks.protocol import Array, StateSpec
from unisono.frameworks.pytorch.optimizers import Optimizer, bare_step, clone, settings
from unisono.gradients.regions import Chunk, Piece, Region

Numbers = Mapping[str, Callable[[float], Any]]
"""By key of each number in a parameter's state what makes it of the float64 that it is kept as."""

GRAIN = 64
"""Elements; a tensor whose size is a multiple gets the same bits alone and as the beginning of a longer one: kernels
take no rest of it another way than the whole vectors before."""


def runs(pieces: Sequence[Piece], group_of: Mapping[int, int]) -> list[range]:
    """Neighbours that may be stepped as one tensor where the optimizer is elementwise: a call takes a few microseconds
    for each tensor besides the arithmetic.

    Args:
        pieces: of a chunk.
        group_of: parameter number → the optimizer's group.

    Returns:
        Consecutive ranges of the pieces: of one group each, with nothing between them in memory.

    >>> members = [(0, "w", (2, 64)), (1, "b", (64,)), (2, "v", (3,)), (3, "c", (64,))]
    >>> region = Region.pack(0, "float32", 0, "elementwise", members)
    >>> runs([Piece(parameter, 0, parameter.size) for parameter in region.parameters], {0: 0, 1: 0, 2: 0, 3: 0})
    [range(0, 3), range(3, 4)]
    """
    found: list[range] = []
    for index, piece in enumerate(pieces):
        before = pieces[index - 1]
        joins = (
            index > 0
            and group_of[before.parameter.number] == group_of[piece.parameter.number]
            and before.parameter.offset + before.stop == piece.parameter.offset + piece.start
            and (before.stop - before.start) % GRAIN == 0
        )
        start = found.pop().start if joins else index
        found.append(range(start, index + 1))
    return found


class TorchChunkUpdate:
    """The optimizer's own `step` over the pieces of one chunk.

    Args:
        master: the job's optimizer.
        spec: what `optimizers.state_of` found.
        region, chunk: what is updated.
        scratch: the chunk's parameters, gradients, and per parameter number its state.
        group_of: parameter number → the optimizer's group.
    """

    def __init__(
        self, master: Optimizer, spec: tuple[StateSpec, Numbers], region: Region, chunk: Chunk,
        scratch: tuple[Array, Array, Mapping[int, Mapping[str, Array]]], group_of: Mapping[int, int],
    ) -> None:  # fmt: skip
        self._numbers = np.array([piece.parameter.number for piece in chunk.pieces])
        self._owned = np.array([index for index, piece in enumerate(chunk.pieces) if piece.start == 0], dtype=np.intp)
        self._width = 1 + len(spec[1])
        alone = [range(index, index + 1) for index in range(len(chunk.pieces))]
        self._runs = runs(chunk.pieces, group_of) if region.kind == "elementwise" else alone
        held = master, spec, region, chunk, scratch, group_of
        self._joined = self._stepper = _Stepper(*held, self._runs)
        self._alone = self._joined if self._runs == alone else _Stepper(*held, alone)
        self._expected = b""

    def step(self, before: Array, after: Array, used: Array) -> None:
        """See `ChunkUpdate.step`."""
        rows, flags = before[self._numbers, : self._width], used[self._numbers]
        if rows.tobytes() + flags.tobytes() != self._expected:
            self._install(rows.tolist(), flags.tolist())
        rows = np.repeat(self._stepper.step(), self._stepper.lengths, axis=0)
        after[self._numbers[self._owned], : self._width] = rows[self._owned]
        self._expected = rows.tobytes() + flags.tobytes()

    def _install(self, rows: list[list[float]], flags: list[int]) -> None:
        alike = all(
            flags[index] == flags[run.start] and rows[index] == rows[run.start] for run in self._runs for index in run
        )
        self._stepper = self._joined if alike else self._alone
        self._stepper.install(rows, flags)


class _Stepper:
    """An optimizer like the master over one tensor a run."""

    def __init__(
        self, master: Optimizer, spec: tuple[StateSpec, Numbers], region: Region, chunk: Chunk,
        scratch: tuple[Array, Array, Mapping[int, Mapping[str, Array]]], group_of: Mapping[int, int],
        runs: Sequence[range],
    ) -> None:  # fmt: skip
        parameters, gradients, state = scratch
        self._master, self._scalars, self._runs = master, spec[1], runs
        self._tensors: list[torch.Tensor] = []
        self._gradients: list[torch.Tensor] = []
        self._views: list[dict[str, torch.Tensor]] = []
        self._groups = sorted({group_of[piece.parameter.number] for piece in chunk.pieces})
        groups = {index: {**settings(master.param_groups[index]), "params": []} for index in self._groups}
        for run in runs:
            first, last = chunk.pieces[run.start], chunk.pieces[run.stop - 1]
            start = first.parameter.offset + first.start - chunk.start
            stop = last.parameter.offset + last.stop - chunk.start
            shape = (stop - start,) if region.kind == "elementwise" else first.parameter.shape or (1,)
            self._tensors.append(torch.from_numpy(parameters[start:stop]).view(shape))
            self._gradients.append(torch.from_numpy(gradients[start:stop]).view(shape))
            views = state[first.parameter.number]
            self._views.append({key: torch.from_numpy(_span(view, run, stop - start)) for key, view in views.items()})
            groups[group_of[first.parameter.number]]["params"].append(self._tensors[-1])
        self._optimizer = clone(master, [groups[index] for index in self._groups])
        self._bare_step = bare_step(master)
        self._rows: list[list[float]] = []
        self.lengths = [len(run) for run in runs]
        """Pieces of each run."""

    def install(self, rows: Sequence[list[float]], flags: Sequence[int]) -> None:
        """Go on from other scalars than the last step has left, or with other gradients.

        Args:
            rows: per piece its scalars, alike within a run.
            flags: per piece whether it has a gradient, alike within a run.
        """
        self._rows = [rows[run.start] for run in self._runs]
        for index, (run, tensor, row) in enumerate(zip(self._runs, self._tensors, self._rows, strict=True)):
            tensor.grad = self._gradients[index] if flags[run.start] else None
            self._optimizer.state.pop(tensor, None)
            if row[0]:
                state: dict[str, Any] = dict(self._views[index])
                for (key, made), value in zip(self._scalars.items(), row[1:], strict=True):
                    state[key] = made(value)
                self._optimizer.state[tensor] = state

    def step(self) -> list[list[float]]:
        """One step; returns the scalars after it, by run."""
        for own, index in zip(self._optimizer.param_groups, self._groups, strict=True):
            own.update(settings(self._master.param_groups[index]))
        with torch.no_grad():
            self._bare_step(self._optimizer)
        self._rows = [self._collect(index, row) for index, row in enumerate(self._rows)]
        return self._rows

    def _collect(self, index: int, row: list[float]) -> list[float]:
        """Bring a tensor's state home: what the optimizer made anew into its views, scalars returned."""
        state = self._optimizer.state.get(self._tensors[index])
        if not state:
            return row
        for key, view in self._views[index].items():
            if key in state and state[key] is not view and state[key] is not None:
                view.copy_(state[key].reshape(view.shape))
                state[key] = view
        return [1.0, *(_number(state.get(key)) for key in self._scalars)]


def _number(value: Any) -> float:
    return 0.0 if value is None else float(value)


def _span(first: Array, run: range, size: int) -> Array:
    """A run's part of a state vector, of which `first` is the first piece's: they lie as the parameters do."""
    return first if len(run) == 1 else np.lib.stride_tricks.as_strided(first, (size,), (first.itemsize,))
