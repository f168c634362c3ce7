"""From what `job.model` returned to a model whose variables exist, in the job's precision; and to its stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from unisono.errors import UsageError
from unisono.frameworks.keras.backends import BACKEND
from unisono.frameworks.keras.data import Data
from unisono.frameworks.keras.variables import is_keras
from unisono.job import Job

if TYPE_CHECKING:
    from unisono.frameworks.keras.model import Adapter

KNOWN_GRAPHS = ((3, 10), (3, 15))
"""The first and the last Keras whose graph of layers, which is no public interface, can be cut into stages."""

AVERAGES = (3, 14)
"""The first Keras that divides a layer's penalty on its outputs by the batch's size."""


def version() -> tuple[int, ...]:
    """Keras's, as far as interfaces depend on it.

    >>> version() >= (3, 10)
    True
    """
    return tuple(map(int, keras.__version__.split(".")[:2]))


def in_precision(model: Any, precision: str) -> Any:
    """The model computing in the job's precision: its layers' dtype policies are set, where they are Keras's default.

    Raises:
        UsageError: a `tf.Module` has no policy.
    """
    if precision == "float32":
        return model
    if not is_keras(model):
        raise UsageError(
            "precision='bfloat16' sets the dtype policy of Keras layers; a tf.Module has none. Cast in its __call__."
        )
    for layer in model._flatten_layers():
        if layer.dtype_policy.name == "float32":
            layer.dtype_policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    return model


def built(model: Any, job: Job, example: Callable[[], Any]) -> Any:
    """The model, called once on the first sample if it has not been built.

    Raises:
        UsageError: no Keras model.
    """
    known = is_keras(model) or hasattr(type(model), "with_name_scope")
    if not known:
        raise UsageError(
            f"job.model must return a Keras model or a tf.Module; received {type(model).__name__}. Write model=make, "
            "a function that returns keras.Sequential([...])."
        )
    if is_keras(model):
        if all(layer.built for layer in model._flatten_layers()):
            return model
    elif model.trainable_variables:
        return model
    Data.seed_everything(job.seed)
    inputs, _ = example()
    tensors = keras.tree.map_structure(lambda leaf: BACKEND.tensor(np.asarray(leaf)), inputs)
    forward = job.forward or (lambda model, inputs: model(inputs))
    BACKEND.eagerly(lambda: forward(model, tensors))
    return model


def refuse_own_steps(model: Any) -> None:
    """A model's own way to train or to be evaluated belongs to Keras's `fit`, which does not run here.

    Raises:
        UsageError: its class has one.
    """
    for name in ("train_step", "test_step", "compute_loss"):
        method = getattr(type(model), name, None)
        if method is not None and not str(method.__module__).startswith("keras."):
            raise UsageError(
                f"a Keras job computes job.loss of what the model's call gives; {type(model).__name__} has a {name} of "
                "its own, which nothing would call. Write job.forward=(model, inputs) -> outputs and "
                "job.loss=(targets, outputs) -> losses, which may be any functions."
            )


def refuse_summed_penalties(model: Any) -> None:
    """An older Keras sums a penalty on outputs over the batch: of a microbatch it would be a fraction.

    Raises:
        UsageError: a layer has one.
    """
    if version() >= AVERAGES or not is_keras(model):
        return
    for layer in model._flatten_layers():
        if layer.activity_regularizer is not None:
            raise UsageError(
                f"an activity_regularizer takes Keras >= {AVERAGES[0]}.{AVERAGES[1]}, which takes its mean over the "
                f"samples; {layer.name!r} has one, and this is Keras {keras.__version__}, which sums it over a batch, "
                "here a microbatch. Upgrade Keras, or regularize the weights."
            )


def cutter_of(job: Job, adapter: Adapter) -> Any:
    """What cuts a job's model.

    Args:
        job: the job.
        adapter: its adapter.

    Raises:
        UsageError: it can't be cut.
    """
    if BACKEND.NAME != "TensorFlow":
        raise UsageError(
            f"Keras models are cut into stages on TensorFlow; this one runs on {BACKEND.NAME}. Set "
            "KERAS_BACKEND=tensorflow before Keras is imported, or train with pipeline=1."
        )
    first, last = KNOWN_GRAPHS
    if not first <= version() <= last:
        raise UsageError(
            f"Keras models are cut into stages with Keras {first[0]}.{first[1]} to {last[0]}.{last[1]}, whose inner "
            f"graphs are known; this one is Keras {keras.__version__}. Install one of those, or train with pipeline=1."
        )
    if job.forward is not None:
        raise UsageError(
            "a Keras model that is cut is called layer by layer; received job.forward, which calls it in its own way. "
            "Make that a part of the model, or train with pipeline=1."
        )
    from unisono.frameworks.keras.stages.cutter import Cutter  # it needs TensorFlow

    return Cutter(adapter)
