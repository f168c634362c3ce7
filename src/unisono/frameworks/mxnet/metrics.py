"""MXNet's metric objects, which take labels first and lists, in the form that the core feeds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mxnet
from mxnet.metric import EvalMetric
from mxnet.ndarray import NDArray

from unisono.errors import UsageError


def as_float(value: Any) -> float:
    """A Python number of one, or of an array with one element."""
    return float(value.asnumpy().item() if isinstance(value, NDArray) else value)


def adapted(name: str, metric: Any) -> Any:
    """A metric object with `update(outputs, targets)`, `compute()` and `reset()`.

    Raises:
        UsageError: it is neither MXNet's nor has these methods.
    """
    if isinstance(metric, EvalMetric):
        return SimpleNamespace(
            update=lambda outputs, targets: metric.update(_listed(targets), _listed(outputs)),
            compute=lambda: _value(*metric.get()),
            reset=metric.reset,
        )
    if not hasattr(metric, "compute"):
        raise UsageError(
            f"a metric object of an MXNet job is an mx.metric.EvalMetric, or has update(outputs, targets), compute() "
            f"and reset(); metrics[{name!r}] is {type(metric).__name__}. Give a function (outputs, targets) -> "
            "(sum, count) instead."
        )
    return metric


def _value(names: Any, values: Any) -> Any:
    """A metric's value; of a composite one by name."""
    return dict(zip(names, values, strict=True)) if isinstance(names, list) else values


def _listed(values: Any) -> list[Any]:
    """As a list of `mx.nd` arrays."""
    held = values if isinstance(values, list | tuple) else [values]
    return [value.as_nd_ndarray() if isinstance(value, mxnet.np.ndarray) else value for value in held]
