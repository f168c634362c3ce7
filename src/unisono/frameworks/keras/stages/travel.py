"""Values on their way between stages: NumPy has no bfloat16, so its bits travel as uint16."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def packed(tensor: Any) -> Any:
    """A tensor as it travels."""
    return tf.bitcast(tensor, tf.uint16) if tensor.dtype == tf.bfloat16 else tensor


def unpacked(tensor: Any, dtype: str) -> Any:
    """A tensor that has travelled, in the dtype that it had."""
    return tf.bitcast(tensor, tf.bfloat16) if dtype == "bfloat16" else tensor
