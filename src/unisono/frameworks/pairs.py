"""The default collate of every framework: (inputs, targets) pairs, stacked in the framework's own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unisono.errors import JobError

Stack = Callable[[Sequence[Any]], Any]
"""(all samples' inputs, or all targets) → one batch; raises where a sample does not fit the others."""


def stacked(samples: Sequence[Any], indices: Sequence[int], stack: Stack) -> tuple[Any, Any]:
    """Stack pairs; targets may be None in every sample.

    Args:
        samples: the pairs.
        indices: their indices in the data, for the error.
        stack: the framework's way.

    Raises:
        JobError: a sample does not fit the others (named by its index), or samples are not pairs.

    >>> stacked([(1, 2), (3, 4)], [0, 1], tuple)
    ((1, 3), (2, 4))
    """
    if (trouble := no_pair(samples[0], indices[0])) is not None:
        raise JobError(trouble)
    try:
        return _pair(samples, stack)
    except Exception as error:
        raise JobError(
            f"samples of a microbatch must stack; {_culprit(samples, indices, stack)} does not fit the others: "
            f"{str(error).splitlines()[0]} Pass collate= to pad or choose."
        ) from error


def no_pair(sample: Any, index: int) -> str | None:
    """What is wrong with a sample that is no (inputs, targets) pair.

    Args:
        sample: the sample.
        index: its index in the data.

    >>> no_pair((1, 2), 0), no_pair({"x": 1}, 3)[:62]
    (None, 'a sample must be an (inputs, targets) pair; sample 3 is dict o')
    """
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return None
    length = f" of length {len(sample)}" if hasattr(sample, "__len__") and getattr(sample, "shape", True) else ""
    return (
        f"a sample must be an (inputs, targets) pair; sample {index} is {type(sample).__name__}{length}. Pass "
        "collate=(samples) -> (inputs, targets)."
    )


def _pair(samples: Sequence[Any], stack: Stack) -> tuple[Any, Any]:
    inputs, targets = (stack(column) for column in zip(*samples, strict=True))
    return inputs, targets


def _culprit(samples: Sequence[Any], indices: Sequence[int], stack: Stack) -> str:
    for sample, index in zip(samples, indices, strict=True):
        try:
            _pair([samples[0], sample], stack)
        except Exception:
            return f"sample {index}"
    return f"one of samples {list(indices)}"
