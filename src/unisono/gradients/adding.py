"""Adding arrays along the tree in place, with as few temporaries as the tree's shape needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from unisono.gradients.arithmetic import add
from unisono.values.arrays import Array


class TreeAdder:
    """Adds along nested (left, right) pairs whose leaves begin with a whole number; keeps its temporaries.

    >>> import numpy as np
    >>> TreeAdder()((((0,), (1,)), (2,)), lambda number: np.array([10.0 * number]), np.empty(1))
    array([30.])
    """

    def __init__(self) -> None:
        self._temporaries: list[Array] = []

    def __call__(self, tree: Any, leaf: Callable[..., Array], out: Array) -> Array:
        """The sum, in `out`; a tree of one leaf gives that leaf itself.

        Args:
            tree: what to add.
            leaf: called with a leaf's members.
            out: where the sum goes.
        """
        return self._add(tree, leaf, out, 0)

    def _add(self, node: Any, leaf: Callable[..., Array], target: Array, depth: int) -> Array:
        if isinstance(node[0], int):
            return leaf(*node)
        if isinstance(node[0][0], int):
            return add(leaf(*node[0]), self._add(node[1], leaf, target, depth), target)
        left = self._add(node[0], leaf, target, depth)
        right = self._add(node[1], leaf, self._temporary(depth, target), depth + 1)
        return add(left, right, target)

    def _temporary(self, depth: int, like: Array) -> Array:
        while len(self._temporaries) <= depth:
            self._temporaries.append(np.empty(0, np.uint8))
        if self._temporaries[depth].size < like.nbytes:
            self._temporaries[depth] = np.empty(like.nbytes, np.uint8)
        return self._temporaries[depth][: like.nbytes].view(like.dtype)
