"""The models in plain JAX: how first values are drawn and how outputs are computed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import common
import jax
import jax.numpy as jnp
import optax


def _dense(key: Any, inputs: int, outputs: int) -> Any:
    return {"kernel": jax.random.normal(key, (inputs, outputs)) * inputs**-0.5, "bias": jnp.zeros(outputs)}


def _convolution(key: Any, inputs: int, outputs: int) -> Any:
    return {
        "kernel": jax.random.normal(key, (3, 3, inputs, outputs)) * (9 * inputs) ** -0.5,
        "bias": jnp.zeros(outputs),
    }


def mlp() -> Any:
    """784-2048-2048-10."""
    keys = jax.random.split(jax.random.key(0), 3)
    widths = (common.PIXELS, 2048, 2048, common.CLASSES)
    return [_dense(key, *pair) for key, pair in zip(keys, pairwise(widths), strict=True)]


def mlp_forward(parameters: Any, inputs: Any) -> Any:
    """(batch, 784) → logits."""
    for layer in parameters[:-1]:
        inputs = jax.nn.relu(inputs @ layer["kernel"] + layer["bias"])
    return inputs @ parameters[-1]["kernel"] + parameters[-1]["bias"]


def cnn() -> Any:
    """Two small convolutions on 28 × 28."""
    keys = jax.random.split(jax.random.key(0), 3)
    return [_convolution(keys[0], 1, 32), _convolution(keys[1], 32, 64), _dense(keys[2], 64 * 49, common.CLASSES)]


def cnn_forward(parameters: Any, inputs: Any) -> Any:
    """(batch, 784) → logits."""
    held = inputs.reshape(-1, 28, 28, 1)
    for layer in parameters[:-1]:
        held = jax.lax.conv_general_dilated(
            held, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        held = jax.nn.relu(held + layer["bias"])
        held = jax.lax.reduce_window(held, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return held.reshape(len(held), -1) @ parameters[-1]["kernel"] + parameters[-1]["bias"]


MODELS = {"mlp": (mlp, mlp_forward), "cnn": (cnn, cnn_forward)}


def mean_loss(outputs: Any, targets: Any) -> Any:
    """Mean cross entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()
