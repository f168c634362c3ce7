"""A job's loss and metrics in Keras's forms: (targets, outputs), by function, object or name."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras

from unisono.errors import JobError, UsageError
from unisono.frameworks.keras.backends import BACKEND

FOREIGN = ("torch", "jax", "optax", "flax", "mxnet")
WAY_OUT = "Write loss='sparse_categorical_crossentropy', a keras.losses object, or a function (targets, outputs)."


def made(given: Any) -> Callable[..., Any]:
    """The loss as a function (targets, outputs) → per-sample values, their mean, or (total, weight).

    Raises:
        UsageError: no loss, another framework's, or one whose reduction is no mean.
    """
    origin = getattr(given, "__module__", None) or type(given).__module__
    if origin.partition(".")[0] in FOREIGN:
        name = getattr(given, "__name__", type(given).__name__)
        raise UsageError(
            f"the loss of a Keras job takes (targets, outputs); received {origin}.{name}, which takes them the other "
            f"way round. {WAY_OUT}"
        )
    if isinstance(given, type):
        raise UsageError(f"job.loss must be an object or a function; received the class {given.__name__}. {WAY_OUT}")
    try:
        loss = keras.losses.get(given)
    except ValueError as error:
        raise UsageError(f"job.loss must be a loss that Keras knows; received {given!r}. {WAY_OUT}") from error
    if not callable(loss):
        raise UsageError(f"job.loss must be callable; received {given!r}. {WAY_OUT}")
    if getattr(loss, "reduction", None) == "sum":
        raise UsageError(
            "the loss of a batch is the mean over its samples; received a loss with reduction='sum'. Use "
            "reduction='sum_over_batch_size', or return (total, weight)."
        )
    return loss  # type: ignore[no-any-return]


def summed(result: Any, samples: Any) -> tuple[Any, Any]:
    """(Σ loss, weight) of what a loss gave: per-sample values are averaged, as Keras does.

    Args:
        result: values, their mean, or (total, weight).
        samples: how many there are, as a tensor.
    """
    ops = keras.ops
    if isinstance(result, tuple):
        if len(result) != 2:
            raise JobError(f"job.loss may return (total, weight); received a tuple of {len(result)}.")
        total, weight = result
        return ops.convert_to_tensor(total), ops.cast(weight, "float32")
    mean = ops.mean(ops.convert_to_tensor(result))
    return mean * ops.cast(samples, mean.dtype), samples


def fed(metric: Any) -> Any:
    """A Keras metric with `update`, `compute` (its value, or named values) and `reset`; any other as it is."""
    if not hasattr(metric, "update_state"):
        return metric
    return SimpleNamespace(
        update=lambda outputs, targets: metric.update_state(targets, outputs),
        compute=lambda: keras.tree.map_structure(
            lambda value: BACKEND.array(keras.ops.convert_to_tensor(value)), metric.result()
        ),
        reset=metric.reset_state,
    )
