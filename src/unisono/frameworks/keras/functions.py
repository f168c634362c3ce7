"""The two compiled functions of a job: a microbatch's gradient, and its loss and outputs in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from unisono.frameworks.keras import losses
from unisono.frameworks.keras.backends import BACKEND
from unisono.frameworks.keras.forward import Forward, KerasForward, ModuleForward
from unisono.frameworks.keras.variables import Values, Variables, is_keras


def wide(output: Any) -> Any:
    """Half-precision outputs in float32: what Keras's losses compute in."""
    half = keras.backend.standardize_dtype(output.dtype) in ("bfloat16", "float16")
    return keras.ops.cast(output, "float32") if half else output


class Functions:
    """Pure functions of tensors, traced or compiled once for each shape of a microbatch.

    Args:
        model: the model.
        variables: its own.
        forward: (model, inputs) → outputs, or None to call the model.
        loss: (targets, outputs) → per-sample values, their mean, or (total, weight).
    """

    def __init__(self, model: Any, variables: Variables, forward: Forward | None, loss: Callable[..., Any]) -> None:
        self._variables, self._loss = variables, loss
        trained = [variables.parameters[n] for n in variables.trained]
        if is_keras(model):
            self._run: Any = KerasForward(model, variables, forward or (lambda model, inputs: model(inputs)))
            self._train = BACKEND.with_gradients(self._trained)
        else:
            self._run = ModuleForward(model, variables, forward)
            self._train = BACKEND.with_gradients(self._trained, trained)
        self._test = BACKEND.compiled(self._tested)
        chosen = set(variables.trained)
        self._frozen = [n for n in range(len(variables.parameters)) if n not in chosen]

    def _measured(self, training: bool, values: Values, batch: Any, samples: Any) -> tuple[Any, Any, Any, Any]:
        inputs, targets = batch

        def after(outputs: Any) -> Any:
            outputs = keras.tree.map_structure(wide, outputs)
            return outputs, losses.summed(self._loss(targets, outputs), samples)

        ((outputs, (total, weight)), penalty), new_buffers = self._run(values, inputs, training, after)
        if penalty is not None:
            total = total + keras.ops.cast(penalty * keras.ops.cast(weight, penalty.dtype), total.dtype)
        return total, weight, outputs, new_buffers

    def _trained(self, trained: Any, frozen: Any, buffers: Any, seeds: Any, *rest: Any) -> tuple[Any, tuple[Any, ...]]:
        numbered = dict(zip((*self._variables.trained, *self._frozen), (*trained, *frozen), strict=True))
        parameters = [numbered[n] for n in range(len(numbered))]
        result = self._measured(True, Values(parameters, buffers, seeds), *rest)
        return result[0], result

    def _tested(self, values: Values, *rest: Any) -> tuple[Any, ...]:
        return self._measured(False, values, *rest)[:3]

    def train(self, values: Values, *rest: Any) -> tuple[tuple[Any, ...], Sequence[Any]]:
        """One microbatch with gradients.

        Args:
            values: of all variables.
            rest: (inputs, targets), the number of samples; all tensors.

        Returns:
            (Σ loss, weight, outputs, new buffers) and the gradients of the trained parameters.
        """
        chosen = ([values.parameters[n] for n in numbers] for numbers in (self._variables.trained, self._frozen))
        result, gradients = self._train(*chosen, values.buffers, values.seeds, *rest)
        return result, gradients

    def test(self, values: Values, *rest: Any) -> tuple[Any, ...]:
        """(Σ loss, weight, outputs) of one microbatch in evaluation mode; arguments as for `train`."""
        result: tuple[Any, ...] = self._test(values, *rest)
        return result
