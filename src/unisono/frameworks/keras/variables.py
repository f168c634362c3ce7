"""A model's variables, sorted: trained, frozen, buffers, and the states of its random generators; each by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
from keras.src.backend import random_seed_dtype  # nothing public names a generator's state
from keras.src.random.seed_generator import global_seed_generator

from unisono.errors import UsageError


class Values(NamedTuple):
    """The values of a model's variables, as tensors."""

    parameters: Sequence[Any]
    buffers: Sequence[Any]
    seeds: Sequence[Any]


@dataclass(frozen=True)
class Variables:
    """The variables of one model.

    Attributes:
        parameters: trained and frozen ones in the model's order.
        trained: numbers of the trained ones.
        buffers: what the forward pass may change (BatchNormalization's statistics).
        names: of parameters and buffers.
        seeds: states of random generators, Keras's global one last.
    """

    parameters: list[Any]
    trained: list[int]
    buffers: list[Any]
    names: list[str]
    seeds: list[Any]

    def having(self, values: Values) -> list[tuple[Any, Any]]:
        """Each variable with its value."""
        held = (*self.parameters, *self.buffers, *self.seeds)
        return list(zip(held, (*values.parameters, *values.buffers, *values.seeds), strict=True))

    @property
    def named(self) -> list[tuple[str, Any]]:
        """(name, variable) of parameters and buffers."""
        return list(zip(self.names, (*self.parameters, *self.buffers), strict=True))


def is_keras(model: Any) -> bool:
    """Whether it is a Keras model (or layer); else it is a `tf.Module`."""
    return isinstance(model, keras.layers.Layer)


def of_model(model: Any, with_global_seed: bool) -> Variables:
    """The variables of a model that has all of them; see `of_keras`."""
    return of_keras(model, with_global_seed) if is_keras(model) else of_module(model)


def check(held: Variables) -> None:
    """Refuse what cannot be trained, or not in shared memory.

    Raises:
        UsageError: nothing is trainable, or a variable is of a half precision.
    """
    if not held.trained:
        raise UsageError("nothing to train: the model has no trainable variable. Set layer.trainable = True.")
    for name, variable in held.named:
        if dtype_of(variable) in ("bfloat16", "float16"):
            raise UsageError(
                f"a model's variables are float32 or float64; {name!r} is {dtype_of(variable)}. Keep them float32 and "
                "set precision='bfloat16'."
            )


def of_keras(model: Any, with_global_seed: bool) -> Variables:
    """The variables of a built Keras model.

    Args:
        model: the model.
        with_global_seed: whether functions may draw from Keras's global generator (in JAX's they can't).
    """
    trained = {id(v) for v in model.trainable_variables}
    weights = trained | {id(v) for layer in model._flatten_layers() for v in layer._trainable_variables}
    known = {id(v): v for v in model.weights}
    parameters, buffers = ([v for v in known.values() if (id(v) in weights) is wanted] for wanted in (True, False))
    others = [v for v in model.variables if id(v) not in known]
    seeds = [v for v in others if v.dtype == random_seed_dtype() and tuple(v.shape) == (2,)]
    if with_global_seed:
        seeds.append(global_seed_generator().state)
    numbers = [n for n, v in enumerate(parameters) if id(v) in trained]
    names = list(_distinct(v.path for v in (*parameters, *buffers)))
    return Variables(parameters, numbers, buffers, names, seeds)


def of_module(module: Any) -> Variables:
    """The variables of a `tf.Module`, named by the attributes that lead to them."""
    found = module._flatten(predicate=lambda value: hasattr(value, "assign_add"), with_path=True)
    named = list({id(v): ("/".join(map(str, path)), v) for path, v in found}.values())
    named.sort(key=lambda pair: not pair[1].trainable)
    names, variables = [name for name, _ in named], [v for _, v in named]
    count = sum(bool(v.trainable) for v in variables)
    return Variables(variables[:count], list(range(count)), variables[count:], names, [global_seed_generator().state])


def _distinct(paths: Iterator[str]) -> Iterator[str]:
    """Paths, the repeated ones numbered."""
    seen: dict[str, int] = {}
    for path in paths:
        seen[path] = seen.get(path, 0) + 1
        yield path if seen[path] == 1 else f"{path}:{seen[path]}"


def dtype_of(variable: Any) -> str:
    """NumPy's name of the variable's dtype."""
    name: str = keras.backend.standardize_dtype(variable.dtype)
    return name


def value_of(variable: Any) -> Any:
    """Its tensor."""
    return keras.ops.convert_to_tensor(variable)
