"""What people give as data and is no sequence of samples: told before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unisono.errors import UsageError
from unisono.frameworks.pairs import no_pair


def check_kind(data: Any, what: str, collated: bool) -> None:
    """Look at what the data are.

    Args:
        data: training or evaluation data, opened.
        what: the job's field.
        collated: whether the job has a `collate`, which takes any samples.

    Raises:
        UsageError: they are no sequence of samples.
    """
    found, way = None, "list(zip(x, y))"
    if isinstance(data, Mapping):
        found = f"a dictionary with the keys {', '.join(map(repr, list(data)[:4]))}"
    elif isinstance(data, str | bytes):
        found, way = f"the text {data!r}", "lambda: read_samples(path)"
    elif not collated and isinstance(data, tuple | list) and len(data) == 2 and _are_columns(*data):
        found = f"two columns, each of {len(data[0])}"
    if found is not None:
        raise UsageError(f"job.{what} must be a sequence of samples, one at each index; received {found}. Write {way}.")


def _are_columns(first: Any, second: Any) -> bool:
    """Whether these are as many inputs and targets as each other, and no pair of samples."""
    shapes: list[Any] = [getattr(column, "shape", ()) for column in (first, second)]
    return all(len(shape) > 0 for shape in shapes) and shapes[0][0] == shapes[1][0] and shapes[0][0] != 2


def check_ends(data: Any, what: str, collated: bool) -> None:
    """Read the first sample and the last one.

    Args:
        data, what, collated: as in `check_kind`.

    Raises:
        UsageError: one is not there, or the first is no pair.
    """
    for index in (len(data) - 1, 0):
        try:
            sample = data[index]
        except (IndexError, KeyError, NotImplementedError) as error:
            raise UsageError(
                f"job.{what} must give a sample for each index below its length of {len(data)}; sample {index} raised "
                f"{type(error).__name__}: {error}. Correct __len__ or __getitem__, or read the data into a list."
            ) from error
        except Exception:  # the first step that reads it says so, with its place
            return
    trouble = None if collated else no_pair(sample, 0)
    if trouble is not None:
        raise UsageError(f"{trouble} (job.{what})")
