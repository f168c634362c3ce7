"""Gradients while they are summed: partial sums lie as rows in shared memory, and anybody can add any part of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch

from unisono.memory.segment import PAGE, aligned
from unisono.scripts.pytorch.spaces import Ref, Space, bytes_of

BLOCK_BYTES = 1 << 17
"""Added at once: what is added next is still in the cache, and PyTorch needs no second thread."""


class Rows:
    """How gradients lie: one after another those of all parameters that want one, row after row.

    Args:
        parameters: all.
        wanted: which of them want one.

    Attributes:
        size: bytes of a row.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], wanted: Sequence[bool]) -> None:
        self._refs: dict[int, Ref] = {}
        self._count, at = len(parameters), 0
        for number, parameter in enumerate(parameters):
            if wanted[number]:
                stride = torch.empty_like(parameter, device="meta").stride()
                self._refs[number] = Ref(0, at, parameter.dtype, tuple(parameter.shape), stride, False)
                at += bytes_of(parameter)
        self.size = aligned(at, PAGE)

    def views(
        self, space: Space, used: Sequence[int], row: int = 0, memory: memoryview | None = None
    ) -> list[torch.Tensor | None]:  # fmt: skip
        """The gradients of a row; None where there is none.

        Args:
            space: where it lies.
            used: by parameter, whether there is one.
            row: its number in the space.
            memory: see `Space.view`.
        """
        found: list[torch.Tensor | None] = [None] * self._count
        for number, ref in self._refs.items():
            if used[number]:
                found[number] = space.view(ref._replace(offset=ref.offset + row * self.size), memory)
        return found

    def add(self, source: Space, into: Space, tree: Any, used: Sequence[bytes], part: int, parts: int) -> None:
        """Form a part of the sum of rows.

        Args:
            source: the rows.
            into: where the sum goes.
            tree: what to add, nested (left, right) pairs of rows.
            used: by row and parameter, whether it has a gradient.
            part, parts: which of how many.
        """
        blocks = list(self._blocks(tree, used))
        for at, count, dtype, needed in blocks[part * len(blocks) // parts : (part + 1) * len(blocks) // parts]:

            def of(row: int, at: int = at, count: int = count, dtype: torch.dtype = dtype) -> torch.Tensor:
                return source.flat(dtype, row * self.size + at, count)

            out = into.flat(dtype, at, count)
            found = _added(needed, of, out)
            if found is not out:
                out.copy_(found)

    def _blocks(self, tree: Any, used: Sequence[bytes]) -> Iterator[tuple[int, int, torch.dtype, Any]]:
        """Neighbours of one dtype that the same rows have: offset, elements, dtype, and the sum to form."""

        def alike(number: int) -> tuple[torch.dtype, frozenset[int]]:
            return self._refs[number].dtype, frozenset(row for row, flags in enumerate(used) if flags[number])

        for (dtype, rows), group in groupby(self._refs, alike):
            refs = [self._refs[number] for number in group]
            needed = _pruned(tree, rows)
            if needed is not None:
                stop = refs[-1].offset + torch.Size(refs[-1].shape).numel() * dtype.itemsize
                for at in range(refs[0].offset, stop, BLOCK_BYTES):
                    yield at, (min(at + BLOCK_BYTES, stop) - at) // dtype.itemsize, dtype, needed


def _pruned(tree: Any, rows: frozenset[int]) -> Any:
    """The sum of those rows that hold something; None: none does."""
    if not isinstance(tree, tuple):
        return tree if tree in rows else None
    left, right = (_pruned(side, rows) for side in tree)
    return (left if right is None else right) if left is None or right is None else (left, right)


def _added(tree: Any, of: Callable[[int], torch.Tensor], out: torch.Tensor) -> torch.Tensor:
    """The sum, in `out`; of one row that row itself."""
    if not isinstance(tree, tuple):
        return of(tree)
    left = _added(tree[0], of, out)
    right = _added(tree[1], of, torch.empty_like(out) if left is out else out)
    return torch.add(left, right, out=out)
