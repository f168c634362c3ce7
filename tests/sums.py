"""A sum along nested pairs, as it is written in a textbook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def along(tree: Any, leaf: Callable[..., Any]) -> Any:
    """Left + right, at every pair.

    Args:
        tree: nested (left, right) pairs; its leaves are tuples that begin with a whole number.
        leaf: called with a leaf's members.

    >>> along((((0,), (1,)), (2,)), lambda number: 10 * number)
    30
    """
    return leaf(*tree) if isinstance(tree[0], int) else along(tree[0], leaf) + along(tree[1], leaf)
