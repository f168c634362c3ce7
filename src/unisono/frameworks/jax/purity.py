"""What a compiled function must not do, found while it is traced, and JAX's own errors in the job's words."""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from unisono.errors import JobError
from unisono.errors.traces import user_traceback

_WAY_OUT = (
    "JAX runs Python once per shape and then only what it recorded: pass values in (inputs, variables, state) and "
    "return them (outputs, metrics, new state)"
)
_CONTAINERS = (list, dict, set)


@contextlib.contextmanager
def no_side_effects(functions: Sequence[Callable[..., Any] | None]) -> Iterator[None]:
    """While a function is traced: refuse effects that would happen once and then never again.

    Raises:
        JobError: NumPy's or Python's generator was drawn from, or one of the functions changed a global or an
            enclosing variable.
    """
    generators, seen = _generators(), _surroundings(functions)
    yield
    if _generators() != generators:
        raise JobError(
            "the forward pass, loss and metrics must draw random numbers from JAX keys; they drew from NumPy's or "
            "Python's generator, whose numbers would be frozen into the compiled function. Use the `key` that forward "
            "is given, nnx.Rngs, or make_rng."
        )
    for name, value in _surroundings(functions).items():
        if seen.get(name) != value:
            raise JobError(
                f"the forward pass, loss and metrics must have no side effects; {name!r} changed. {_WAY_OUT}."
            )


def _generators() -> Any:
    name, words, *position = np.random.get_state()
    return random.getstate(), name, np.asarray(words).tobytes(), position


def _surroundings(functions: Sequence[Callable[..., Any] | None]) -> dict[str, Any]:
    """The globals and enclosing variables that functions use: which object, and how much it holds."""
    found: dict[str, Any] = {}
    for function in functions:
        if inspect.isfunction(function):
            closure = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            for name, cell in closure:
                with contextlib.suppress(ValueError):  # a variable that is not set yet
                    found[name] = _mark(cell.cell_contents)
            for name in function.__code__.co_names:
                if name in function.__globals__:
                    found[name] = _mark(function.__globals__[name])
    return found


def _mark(value: Any) -> tuple[Any, ...]:
    if isinstance(value, _CONTAINERS):
        return id(value), len(value)
    return (value,) if isinstance(value, int | float | str) else (id(value),)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Give JAX's errors about traced values the rule and the way out; the user's own traceback stays below."""
    try:
        yield
    except jax.errors.UnexpectedTracerError as error:
        raise JobError(
            f"a value of one traced call was kept and used in another (a side effect). {_WAY_OUT}.",
            user_traceback(error),
        ) from error
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError,
            jax.errors.TracerIntegerConversionError, jax.errors.NonConcreteBooleanIndexError) as error:  # fmt: skip
        raise JobError(
            "the forward pass, loss and metric functions are compiled, so Python may not look at values in them "
            "(if, float(), int(), NumPy functions, boolean masks). Use jnp.where, jax.lax.cond and jnp functions; a "
            "metric that needs plain arrays can be an object with update, compute and reset.",
            user_traceback(error),
        ) from error
