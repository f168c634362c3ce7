"""Saved values that are put into a job's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unisono.errors import UsageError


def fitting(values: Mapping[str, Any], name: str, shape: Sequence[int] | None) -> Any:
    """The saved value of a tensor.

    Args:
        values: all saved ones.
        name: the tensor's.
        shape: its shape in the model; None = not known yet.

    Raises:
        UsageError: there is none, or it has another shape.

    >>> fitting({"w": __import__("numpy").ones(2)}, "w", (2,))
    array([1., 1.])
    """
    value = values.get(name)
    there = None if value is None else tuple(value.shape)
    if there is None or (shape is not None and there != tuple(shape)):
        here = "a tensor" if shape is None else list(shape)
        raise UsageError(
            f"saved parameters must fit the job's model; {name!r} is {here} here and "
            f"{'nothing' if there is None else list(there)} in the file. Use the job that the run was made with."
        )
    return value
