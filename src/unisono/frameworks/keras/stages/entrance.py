"""What a model does to its inputs before its first layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


class Entrance:
    """The way into a model.

    Args:
        model: a Sequential or functional model.
        graph: its layers.
    """

    def __init__(self, model: Any, graph: Any) -> None:
        self._model, self._graph = model, graph

    def cast(self, inputs: Any) -> Any:
        """Sequential casts its inputs, as layers do; functional models do not."""
        if not self._model._convert_input_args:
            return inputs
        policy, autocast, dtype = self._model.dtype_policy, self._model.autocast, self._model.input_dtype
        return keras.tree.map_structure(lambda leaf: _masked(policy.convert_input(leaf, autocast, dtype), leaf), inputs)

    def enter(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """In the dtypes and of the ranks that the graph was built for."""
        cast = self.cast(list(inputs))
        converted = self._graph._convert_inputs_to_tensors(cast)
        masked = [_masked(tensor, given) for tensor, given in zip(converted, cast, strict=True)]
        adjusted: Sequence[Any] = self._graph._adjust_input_rank(masked)
        return adjusted


def _masked(tensor: Any, like: Any) -> Any:
    """A converted tensor with the mask of the one it was made of."""
    mask = keras.src.backend.get_keras_mask(like)
    if mask is not None and tensor is not like:
        keras.src.backend.set_keras_mask(tensor, mask)
    return tensor
