"""Which Keras models can be cut into stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from unisono.errors import UsageError
from unisono.frameworks.keras.backends import BACKEND
from unisono.frameworks.keras.building import version
from unisono.job import Job

if TYPE_CHECKING:
    from unisono.frameworks.keras.model import Adapter

KNOWN_GRAPHS = ((3, 10), (3, 15))
"""The first and the last Keras whose graph of layers, which is no public interface, can be cut into stages."""


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
