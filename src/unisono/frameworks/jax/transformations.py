"""What is known of an optax transformation from the functions that it is made of: its parts, its learning rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unisono.errors import UsageError

ELEMENTWISE = frozenset(
    {"add_decayed_weights", "clip", "ema", "identity", "keep_params_nonnegative", "scale", "scale_by_adadelta",
     "scale_by_adam", "scale_by_adamax", "scale_by_adan", "scale_by_amsgrad", "scale_by_belief", "scale_by_lion",
     "scale_by_optimistic_gradient", "scale_by_radam", "scale_by_rms", "scale_by_rprop", "scale_by_rss",
     "scale_by_schedule", "scale_by_sign", "scale_by_stddev", "scale_by_yogi", "set_to_zero", "trace", "zero_nans"}
)  # fmt: skip
"""Factories of optax whose transformations act on each element alone, with scalars common to all."""


def prepare(optimizer: Any, steps: int) -> Any:
    """The job's transformation, made from (steps) where the job gives a function.

    Raises:
        UsageError: it is none.
    """
    if _is_transformation(optimizer):
        return optimizer
    if isinstance(optimizer, type) or not callable(optimizer) or _is_factory(optimizer):
        raise UsageError(f"{_RULE}; received {_described(optimizer)}. {_WAY_OUT}")
    try:
        made = optimizer(steps)
    except Exception as error:
        raise UsageError(
            f"{_RULE}; calling it with the number of steps raised {type(error).__name__}: {error}. {_WAY_OUT}"
        ) from error
    if not _is_transformation(made):
        raise UsageError(f"{_RULE}; its function returned {_described(made)}. {_WAY_OUT}")
    return made


_PLAIN = (bool, int, float, str)
_RULE = "job.optimizer of a JAX job is an optax transformation, or (steps) -> one"
_WAY_OUT = (
    "Write optimizer=optax.adam(1e-3), or optimizer=lambda steps: optax.adam(optax.linear_schedule(1e-3, 0, steps))."
)


def _is_transformation(value: Any) -> bool:
    return (
        not isinstance(value, type)
        and callable(getattr(value, "init", None))
        and callable(getattr(value, "update", None))
    )


def _is_factory(value: Any) -> bool:
    """Whether it is optax's own function: `optax.adam` called with the number of steps would learn at that rate."""
    return (getattr(value, "__module__", None) or "").partition(".")[0] == "optax"


def _described(value: Any) -> str:
    return f"{type(value).__module__.partition('.')[0]}'s {type(value).__name__}"


def parts(update: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The transformations that an update function applies one after another: (optax's factory or "", what it holds).

    optax's update functions are closures named after their factory; a chain holds the functions of its members. Nothing
    public tells as much: `optax.tree_utils` looks into states, and clipping, scaling and schedules keep none there.
    """
    name, held = _factory(update)
    if name == "chain":
        for member in held["update_fns"]:
            yield from parts(member)
    elif name == "with_extra_args_support":
        yield from parts(held["tx"].update)
    elif name == "inject_hyperparams":
        yield "inject_hyperparams", held
        yield from parts(_injected(held).update)
    else:
        yield name, held


def _factory(update: Any) -> tuple[str, Mapping[str, Any]]:
    module, code = getattr(update, "__module__", None) or "", getattr(update, "__code__", None)
    if code is None or not module.startswith("optax."):
        return "", {}
    cells = zip(code.co_freevars, update.__closure__ or (), strict=True)
    held = {name: cell.cell_contents for name, cell in cells}
    return update.__qualname__.partition(".")[0], held


def _injected(held: Mapping[str, Any]) -> Any:
    """The transformation inside `inject_hyperparams`, made with numbers in place of what it injects."""
    factory = held["inner_factory"]
    numbers = dict.fromkeys(inspect.signature(factory).parameters, 0.5)
    return factory(**{**numbers, **held["other_hps"], **dict.fromkeys(held["sched_hps"], 0.5)})


def may_be_elementwise(transformation: Any) -> bool:
    """Whether every part is one that is known to act on each element alone (a probe must agree)."""
    return all(
        name == "inject_hyperparams" or (name in ELEMENTWISE and not any(getattr(v, "ndim", 0) for v in held.values()))
        for name, held in parts(transformation.update)
    )


def described(transformation: Any) -> list[tuple[str, dict[str, Any]]]:
    """The parts' names and plain settings, to compare one job with another."""
    return [
        (name or type(transformation).__name__, {key: v for key, v in held.items() if isinstance(v, _PLAIN)})
        for name, held in parts(transformation.update)
    ]


def learning_rate(transformation: Any) -> Callable[[int], float] | None:
    """(steps done) → the learning rate of the next step: the product of the scalings in the chain, if any is seen."""
    factors: list[Callable[[int], float]] = []
    for name, held in parts(transformation.update):
        if name == "inject_hyperparams":
            return _injected_rate(transformation, held)
        if name == "scale" and isinstance(held["step_size"], int | float) and abs(held["step_size"]) != 1:
            factors.append(_constant(abs(float(held["step_size"]))))
        elif name == "scale_by_schedule":
            factors.append(_following(held["step_size_fn"]))
    return (lambda step: math.prod((factor(step) for factor in factors), start=1.0)) if factors else None


def _constant(value: float) -> Callable[[int], float]:
    return lambda step: value


def _following(schedule: Callable[[Any], Any]) -> Callable[[int], float]:
    compiled = jax.jit(schedule)
    return lambda step: abs(float(compiled(np.int32(step))))


def _injected_rate(transformation: Any, held: Mapping[str, Any]) -> Callable[[int], float] | None:
    schedule = held["sched_hps"].get("learning_rate")
    if schedule is not None:
        return _following(schedule.schedule_fn)
    rate = optax.tree_utils.tree_get(transformation.init(jnp.zeros(1)), "learning_rate")
    return None if rate is None else _constant(float(rate))


def apply(transformation: Any, parameters: Any, gradients: Any, state: Any) -> tuple[Any, Any]:
    """(new parameters, new state)."""
    updates, state = transformation.update(gradients, state, parameters)
    return optax.apply_updates(parameters, updates), state
