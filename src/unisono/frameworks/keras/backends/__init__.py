"""What Keras leaves to its backend: memory shared with NumPy, gradients, compilation, threads. One module each."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from unisono.errors import UsageError
from unisono.frameworks.protocol import Array

BACKENDS = ("tensorflow", "jax", "torch")

Function = Callable[..., Any]


class Backend(Protocol):
    """A backend: each module's class `Here`."""

    NAME: str
    """As people write it."""

    TENSORS: tuple[type, ...] = ()
    """Its tensors' classes, where they do not travel as NumPy arrays by themselves."""

    NEUTRAL: tuple[str, ...] = ()
    """Methods of its optimizers that bypass Keras variables; Keras's own are used instead."""

    @abstractmethod
    def version(self) -> str:
        """Its name and version."""

    @abstractmethod
    def pin(self, threads: int) -> None:
        """Fix the number of threads of this process, if it has not computed yet."""

    def warn_of_threads(self) -> None:
        """Warn where `pin` came too late and that can be seen."""

    def seed(self, number: int) -> None:
        """Seed what eager operations draw from, where that has a state."""

    def seed_eager(self, number: int) -> None:
        """Seed what a model's own operations draw from, where that is not a Keras generator."""

    def eagerly(self, function: Callable[[], Any]) -> Any:
        """Call a function as it is, without gradients."""
        return function()

    @abstractmethod
    def alias(self, array: Array, /) -> Any:
        """A tensor over the array's memory (64-byte aligned)."""

    @abstractmethod
    def tensor(self, array: Array, /) -> Any:
        """A tensor with a copy of the array's values."""

    def array(self, tensor: Any) -> Array:
        """The tensor's memory as an array; complete when this returns."""
        return np.asarray(tensor)

    def attach(self, variable: Any, tensor: Any) -> None:
        """Make a variable's value this very tensor."""
        variable.assign(tensor)

    @abstractmethod
    def compiled(self, function: Function) -> Function:
        """The function of tensors compiled once for each of its arguments' shapes; it gives no gradients."""

    @abstractmethod
    def with_gradients(self, function: Function, variables: Sequence[Any] = ()) -> Function:
        """(list, *rest) → (rest of the result, gradients), where function(list, *rest) gives (what to
        differentiate, rest of the result); None for a tensor that it does not depend on. Compiled.

        Args:
            function: what to differentiate.
            variables: `tf.Variable`s to which it assigns its first argument: it is differentiated by them.
        """


def _loaded() -> Backend:
    """The backend that Keras runs on here.

    Raises:
        UsageError: Unisono does not know that backend.
    """
    name = keras.config.backend()
    if name not in BACKENDS:
        raise UsageError(
            f"a Keras job runs on the backends {', '.join(BACKENDS)}; received {name!r}. Set KERAS_BACKEND to one of "
            "them before Keras is imported."
        )
    here: Backend = importlib.import_module(f"{__name__}.{name}").Here()
    return here


BACKEND = _loaded()
