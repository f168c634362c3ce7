"""A model's forward pass as a pure function of its parameters, buffers and seeds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from unisono.frameworks.attributes import shapes
from unisono.frameworks.keras.attributes import attributes_of
from unisono.frameworks.keras.variables import Values, Variables
from unisono.frameworks.unchanged import check_same

Forward = Callable[[Any, Any], Any]

WAYS_OUT = (
    "A weight that is normed or clipped: compute it in call, without assigning it, or give the layer a constraint. A "
    "copy that follows by a moving average: add_weight(trainable=False), which call may assign"
)


class Entry(keras.layers.Layer):  # type: ignore[misc]
    """Runs a model in a layer's call, which is how Keras tells all layers inside whether they train.

    Args:
        model: the model.
        run: (inputs, training) → what it gives.
    """

    def __init__(self, model: Any, run: Callable[[Any, bool], Any]) -> None:
        super().__init__(name="entry", dtype=model.dtype_policy, autocast=False)
        self.model, self._run = model, run
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        """What it gives."""
        return self._run(inputs, training)


class KerasForward:
    """A Keras model.

    Args:
        model: built.
        variables: its own.
        forward: (model, inputs) → outputs.
    """

    def __init__(self, model: Any, variables: Variables, forward: Forward) -> None:
        self._variables = variables
        self._entry = Entry(model, lambda inputs, training: forward(model, inputs))
        self._attributes = attributes_of(model)

    def __call__(
        self, values: Values, inputs: Any, training: bool, after: Callable[[Any], Any]
    ) -> tuple[Any, list[Any]]:
        """Run the model.

        Args:
            values: of its variables.
            inputs: the microbatch's.
            training: whether it trains.
            after: called with the outputs while the values hold.

        Returns:
            (what `after` gave, the sum of the model's own losses (regularizers, `add_loss`) or None), new buffers.
        """
        held = self._variables
        with keras.StatelessScope(held.having(values), collect_losses=True, initialize_variables=False) as scope:
            before = list(map(scope.get_current_value, held.parameters))
            with self._attributes.one_pass(lambda: (shapes(inputs), training)):
                result = after(self._entry(inputs, training=training))
            losses = self._entry.losses
            penalty = sum(losses[1:], losses[0]) if losses else None
        check_same(held.names[: len(before)], before, map(scope.get_current_value, held.parameters), WAYS_OUT)
        return (result, penalty), list(map(scope.get_current_value, held.buffers))


class ModuleForward:
    """A `tf.Module`: its variables are assigned in the function itself, which shares memory and copies nothing.

    Args:
        module: its variables exist.
        variables: its own.
        forward: (module, inputs) → outputs, or None to call it.
    """

    def __init__(self, module: Any, variables: Variables, forward: Forward | None) -> None:
        self._module, self._variables, self._forward = module, variables, forward
        self._takes_training = "training" in inspect.signature(type(module).__call__).parameters

    def __call__(
        self, values: Values, inputs: Any, training: bool, after: Callable[[Any], Any]
    ) -> tuple[Any, list[Any]]:
        """See `KerasForward.__call__`."""
        held, count = self._variables, len(self._variables.named)
        mapping = held.having(values)
        for variable, value in mapping[:count]:
            variable.assign(value)
        with keras.StatelessScope(mapping[count:], initialize_variables=False):
            if self._forward is not None:
                outputs = self._forward(self._module, inputs)
            else:
                outputs = self._module(inputs, **({"training": training} if self._takes_training else {}))
            result = after(outputs)
        return (result, None), [variable.read_value() for variable in held.buffers]
