"""The update of one chunk by a torch optimizer, in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unisono.frameworks.protocol import Array, Scratch
from unisono.frameworks.pytorch.optimizers import Optimizer, bare_step, clone, settings
from unisono.frameworks.scratch import onward
from unisono.gradients.regions import Piece

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
    >>> from unisono.gradients.regions import Region
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


@dataclass(frozen=True)
class Work:
    """The update of a chunk.

    Attributes:
        master: the job's optimizer.
        numbers: of its state.
        scratch: what is updated.
        group_of: parameter number → the optimizer's group.
    """

    master: Optimizer
    numbers: Numbers
    scratch: Scratch
    group_of: Mapping[int, int]


class TorchChunkUpdate:
    """The optimizer's own `step` over the pieces of one chunk.

    Args:
        work: see `Work`.
    """

    def __init__(self, work: Work) -> None:
        pieces = work.scratch.pieces
        self._numbers = np.array([piece.parameter.number for piece in pieces])
        self._owned = np.array([index for index, piece in enumerate(pieces) if piece.start == 0], dtype=np.intp)
        self._width = 1 + len(work.numbers)
        alone = [range(index, index + 1) for index in range(len(pieces))]
        self._runs = runs(pieces, work.group_of) if work.scratch.region.kind == "elementwise" else alone
        self._joined = self._stepper = _Stepper(work, self._runs)
        self._alone = self._joined if self._runs == alone else _Stepper(work, alone)
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

    def __init__(self, work: Work, runs: Sequence[range]) -> None:
        master, scratch = work.master, work.scratch
        self._master, self._scalars, self._runs = master, work.numbers, runs
        self._held: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
        groups: dict[int, list[Tensor]] = {}
        for run in runs:
            first, last = scratch.pieces[run.start], scratch.pieces[run.stop - 1]
            start, stop = scratch.place(first).start, scratch.place(last).stop
            shape = (stop - start,) if scratch.region.kind == "elementwise" else first.parameter.shape or (1,)
            tensor, gradient = (
                torch.from_numpy(span[start:stop]).view(shape) for span in (scratch.parameters, scratch.gradients)
            )
            views = {
                key: torch.from_numpy(view if len(run) == 1 else onward(view, stop - start))
                for key, view in scratch.state[first.parameter.number].items()
            }
            self._held.append((tensor, gradient, views))
            groups.setdefault(work.group_of[first.parameter.number], []).append(tensor)
        self._groups = sorted(groups)
        self._optimizer = clone(
            master, [{**settings(master.param_groups[index]), "params": groups[index]} for index in self._groups]
        )
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
        for run, (tensor, gradient, views), row in zip(self._runs, self._held, self._rows, strict=True):
            tensor.grad = gradient if flags[run.start] else None
            self._optimizer.state.pop(tensor, None)
            if row[0]:
                numbers = {key: made(value) for (key, made), value in zip(self._scalars.items(), row[1:], strict=True)}
                self._optimizer.state[tensor] = {**views, **numbers}

    def step(self) -> list[list[float]]:
        """One step; returns the scalars after it, by run."""
        for own, index in zip(self._optimizer.param_groups, self._groups, strict=True):
            own.update(settings(self._master.param_groups[index]))
        with torch.no_grad():
            self._bare_step(self._optimizer)
        self._rows = [
            self._collect(tensor, views, row) for (tensor, _, views), row in zip(self._held, self._rows, strict=True)
        ]
        return self._rows

    def _collect(self, tensor: Tensor, views: Mapping[str, Tensor], row: list[float]) -> list[float]:
        """Bring a tensor's state home: what the optimizer made anew into its views, scalars returned."""
        state = self._optimizer.state.get(tensor)
        if not state:
            return row
        for key, view in views.items():
            if key in state and state[key] is not view and state[key] is not None:
                view.copy_(state[key].reshape(view.shape))
                state[key] = view
        return [1.0, *(_number(state.get(key)) for key in self._scalars)]


def _number(value: Any) -> float:
    return 0.0 if value is None else float(value)
