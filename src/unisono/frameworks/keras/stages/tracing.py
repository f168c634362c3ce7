"""A stage's forward pass, while it is traced. Between stages bfloat16 travels as uint16, for NumPy has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from unisono.errors import UsageError
from unisono.frameworks.keras import losses
from unisono.frameworks.keras.forward import Entry
from unisono.frameworks.keras.functions import wide
from unisono.frameworks.keras.stages.program import Program
from unisono.frameworks.keras.stages.spans import Span

if TYPE_CHECKING:
    from unisono.frameworks.keras.model import Adapter


@dataclass(frozen=True)
class Traced:
    """A traced forward pass.

    Attributes:
        tape: what it was recorded on.
        result: values and masks for the next stage, new seeds and buffers (None for unchanged ones), and in the last
            stage what is measured.
        targets: what is differentiated: the loss, or the values for the next stage.
        parameters, values: by which parameters and received values, by number.
        dtypes: of the values for the next stage.
    """

    tape: Any
    result: dict[str, Any]
    targets: list[Any]
    parameters: dict[int, Any]
    values: dict[int, Any]
    dtypes: list[str]


def traced(adapter: Adapter, program: Program, span: Span, given: Mapping[str, Any], dtypes: Sequence[str]) -> Traced:
    """Trace a stage's forward pass into the current graph.

    Args:
        adapter: whose model it is.
        program: the model.
        span: the stage.
        given: what the stage computes from, as tensors of that graph (see `Stage`).
        dtypes: of the received values.

    Raises:
        UsageError: a layer has a loss of its own.
    """
    held = adapter.variables
    received = [unpacked(value, dtype) for value, dtype in zip(given["values"], dtypes, strict=True)]
    values = {n: value for n, value in enumerate(received) if value.dtype.is_floating}
    used = dict(zip(span.uses, given["parameters"], strict=True))
    parameters = {n: used[n] for n in span.trained}
    mapping = [
        *((held.parameters[n], value) for n, value in used.items()),
        *zip((held.buffers[n] for n in span.buffers), given["buffers"], strict=True),
        *zip(held.seeds, given["seeds"], strict=True),
    ]
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch([*parameters.values(), *values.values()])
        with keras.StatelessScope(mapping, collect_losses=True, initialize_variables=False) as scope:
            entry = Entry(adapter.model, lambda batch, training: _run(adapter, program, span, given, batch, training))
            result = entry((given["inputs"], received, given["masks"]), training=True)
        if scope.losses:
            raise UsageError(
                "a model that is cut has one loss, the job's, which its last stage computes; a layer calls "
                "add_loss. Return what it adds as an output and add it in job.loss, or train with pipeline=1."
            )
    result["seeds"] = _changed(scope, held.seeds, given["seeds"])
    result["buffers"] = _changed(scope, [held.buffers[n] for n in span.buffers], given["buffers"])
    sent = result["values"]
    result["values"] = [packed(value) for value in sent]
    targets = [result["measured"][0]] if span.last else sent
    names = [keras.backend.standardize_dtype(value.dtype) for value in sent]
    return Traced(tape, result, targets, parameters, values, names)


def _run(
    adapter: Adapter, program: Program, span: Span, given: Mapping[str, Any], batch: Any, training: bool
) -> dict[str, Any]:
    inputs, received, masks = batch
    values = program.given(inputs)
    for number, value, mask in zip(span.received, received, masks, strict=True):
        if mask is not None:
            keras.src.backend.set_keras_mask(value, mask)
        values[number] = value
    for step in span.steps:
        values.update(zip(step.gives, step.call(values, training), strict=True))
    sent = [values[number] for number in span.sent]
    result: dict[str, Any] = {
        "values": sent, "masks": [keras.src.backend.get_keras_mask(value) for value in sent]
    }  # fmt: skip
    if span.last:
        outputs = keras.tree.map_structure(wide, program.result(values))
        total, weight = losses.summed(adapter.loss(given["targets"], outputs), given["samples"])
        result["measured"] = (total, weight, outputs)
    return result


def _changed(scope: Any, variables: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    """The values that the forward pass gave the variables; None for those that it left alone."""
    after = [scope.get_current_value(variable) for variable in variables]
    return [None if new is old else new for new, old in zip(after, before, strict=True)]


def packed(tensor: Any) -> Any:
    """A tensor as it travels."""
    return tf.bitcast(tensor, tf.uint16) if tensor.dtype == tf.bfloat16 else tensor


def unpacked(tensor: Any, dtype: str) -> Any:
    """A tensor that has travelled, in the dtype that it had."""
    return tf.bitcast(tensor, tf.bfloat16) if dtype == "bfloat16" else tensor
