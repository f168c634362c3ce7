"""Plain attributes of a Keras model's layers: see `unisono.frameworks.attributes`.

A backend that compiles runs `call` once for inputs of a kind; an attribute is then what it was before, each time.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from unisono.frameworks.attributes import Attributes, content


def attributes_of(model: Any) -> Attributes:
    """Those of the layers that are not Keras's own."""
    layers = [layer for layer in model._flatten_layers() if not type(layer).__module__.startswith("keras.")]
    common = frozenset(vars(keras.layers.Layer()))
    return Attributes(
        {"" if layer is model else str(layer.name): layer for layer in layers},
        common,
        _content,
        _content,
        "add_weight(trainable=False)",
    )


def _content(value: Any) -> Any:
    if isinstance(value, keras.layers.Layer | keras.Variable | keras.KerasTensor):
        return id(value)
    if not keras.ops.is_tensor(value):
        return None
    try:
        return content(np.asarray(keras.ops.convert_to_numpy(value)))
    except Exception:  # traced: it has no values yet
        return id(value)
