"""A job's data, opened: what is callable is called, and what came is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unisono.errors import UsageError
from unisono.frameworks.protocol import DataFunctions
from unisono.job import Job
from unisono.partition.keys import key
from unisono.runtime.loader.data_kinds import check_kind
from unisono.runtime.loader.samples import Datasets


def open_data(job: Job, functions: DataFunctions) -> Datasets:
    """Call what is callable and check what came."""
    functions.seed_everything(key(job.seed, "data"))  # several processes may open them, and see the same
    collated = job.collate is not None
    training = _opened(job.data, "data", functions, collated)
    evaluation = job.evaluation
    if evaluation is None:
        return Datasets(training, {})
    evaluation = _called(evaluation)
    named = evaluation if isinstance(evaluation, Mapping) else {"evaluation": evaluation}
    opened = {name: _opened(data, f"evaluation {name!r}", functions, collated) for name, data in named.items()}
    return Datasets(training, opened)


def given(job: Job) -> list[Any]:
    """A job's data as they are given."""
    evaluation = job.evaluation
    named = evaluation.values() if isinstance(evaluation, Mapping) else [evaluation]
    return [job.data, *(data for data in named if data is not None)]


def is_opened_by_call(data: Any) -> bool:
    """Whether these are no data, but a function or class of no arguments that gives some."""
    return isinstance(data, type) or (callable(data) and not hasattr(data, "__getitem__"))


def _called(data: Any) -> Any:
    return data() if is_opened_by_call(data) else data


def _opened(data: Any, what: str, functions: DataFunctions, collated: bool) -> Any:
    data = functions.opened(_called(data))
    check_kind(data, what, collated)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise UsageError(
            f"job.{what} must have len() and integer indexing, so that any worker can read any sample; received "
            f"{type(data).__name__}. Wrap it in a list or a map-style Dataset."
        )
    if len(data) == 0:
        raise UsageError(f"job.{what} must hold samples; it is empty. Check the path or the filter that made it.")
    return data
