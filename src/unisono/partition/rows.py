"""Some of a batch's samples, out of all that a framework may put into a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NoRows(ValueError):
    """There is something without a row a sample."""


def rows(value: Any, chosen: Any, samples: int) -> Any:
    """A batch with the chosen rows of every array in it.

    Args:
        value: the batch: arrays in tuples, lists and mappings.
        chosen: a slice, or numbers of rows.
        samples: rows of each array.

    Raises:
        NoRows: something in it has another first dimension.

    >>> import numpy as np
    >>> rows((np.arange(3), {"x": np.array([[3], [4], [5]]), "y": None}), slice(0, 2), 3)
    (array([0, 1]), {'x': array([[3],
           [4]]), 'y': None})
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: rows(item, chosen, samples) for name, item in value.items()}
    if isinstance(value, tuple | list):
        items = [rows(item, chosen, samples) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if tuple(getattr(value, "shape", ()))[:1] != (samples,):
        raise NoRows
    return value[chosen]
