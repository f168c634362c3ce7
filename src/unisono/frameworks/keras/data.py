"""Keras data: how samples become a microbatch, and a finite `tf.data.Dataset` as a list."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state  # clear_session() would forget the dtype policy too
from keras.src.utils.naming import reset_uids

from unisono.errors import UsageError
from unisono.frameworks.keras.backends import BACKEND
from unisono.frameworks.protocol import Array, DataFunctions

MOST_BYTES = 4 << 30
"""Of a `tf.data.Dataset` that is read into memory."""


def _as_array(leaf: Any) -> Any:
    """A leaf as an array; Python's numbers get the widths that Keras gives them."""
    if isinstance(leaf, float):
        return np.asarray(leaf, keras.config.floatx())
    return BACKEND.array(leaf) if isinstance(leaf, BACKEND.TENSORS) else np.asarray(leaf)


class Data(DataFunctions):
    """See `DataFunctions`: samples stack as arrays, leaf by leaf, and travel as arrays: Keras takes either."""

    TENSORS = tuple(BACKEND.TENSORS)
    pin = staticmethod(BACKEND.pin)

    @staticmethod
    def to_array(tensor: Any) -> tuple[Array, str]:
        """See `DataFunctions.to_array`."""
        return np.asarray(BACKEND.array(tensor), order="C"), ""

    @staticmethod
    def seed_everything(number: int) -> None:
        """Seed the default generators of the backend, NumPy and Python."""
        BACKEND.seed(number)
        DataFunctions.seed_everything(number)

    def seed_model(self, seed: int) -> None:
        """Seed what a model's first values may be drawn from, and let Keras count names from the start: a model's
        variables have the same names in every process."""
        keras.utils.set_random_seed(seed)
        global_state.set_global_attribute("global_seed_generator", None)  # older `set_random_seed`s leave it
        reset_uids()

    def settings(self) -> dict[str, Any]:
        """See `DataFunctions.settings`."""
        return {
            "floatx": keras.config.floatx(),
            "epsilon": keras.config.epsilon(),
            "image_data_format": keras.config.image_data_format(),
            "dtype_policy": keras.config.dtype_policy().name,
        }

    def settle(self, settings: Mapping[str, Any]) -> None:
        """See `DataFunctions.settle`."""
        for name, value in settings.items():
            getattr(keras.config, f"set_{name}")(value)

    def opened(self, data: Any) -> Any:
        """A `tf.data.Dataset` as a list of its elements; anything else as it is.

        Raises:
            UsageError: it is endless or too large.
        """
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is None or not isinstance(data, tensorflow.data.Dataset):
            return data
        if int(data.cardinality()) == tensorflow.data.INFINITE_CARDINALITY:
            raise UsageError(
                "a tf.data.Dataset is read into memory, so it must end; this one repeats for ever. Leave .repeat() "
                "away: epochs= counts."
            )
        if data._inputs():
            warnings.warn(
                "a tf.data.Dataset is read once into memory: its maps and shuffles ran once and are frozen. For random "
                "augmentation give an indexable source, whose samples are drawn anew each epoch.", stacklevel=2,
            )  # fmt: skip
        samples, size = [], 0
        for element in data.as_numpy_iterator():
            samples.append(element)
            size += sum(np.asarray(leaf).nbytes for leaf in keras.tree.flatten(element))
            if size > MOST_BYTES:
                raise UsageError(
                    f"a tf.data.Dataset is read into memory and may take {MOST_BYTES >> 30} GiB; this one takes more. "
                    "Give an indexable source instead: a class with __len__ and __getitem__."
                )
        return samples

    def stack(self, column: Sequence[Any]) -> Any:
        """See `DataFunctions.stack`."""

        def stack(*leaves: Any) -> Any:
            if all(leaf is None for leaf in leaves):
                return None
            return np.stack([_as_array(leaf) for leaf in leaves])

        return keras.tree.map_structure(stack, *column)
