"""Keras optimizers as pure functions: which kind each is, what state it has, one step over given tensors."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import keras
import numpy as np
from keras.src.optimizers.base_optimizer import BaseOptimizer  # the part of a public class that is no backend's

from unisono.errors import UsageError
from unisono.frameworks.keras.backends import BACKEND
from unisono.frameworks.keras.variables import value_of
from unisono.gradients.regions import Kind
from unisono.trees.marks import SCALARS, mark

KNOWN = keras.optimizers
ELEMENTWISE = {
    KNOWN.SGD, KNOWN.Adam, KNOWN.AdamW, KNOWN.RMSprop, KNOWN.Adagrad, KNOWN.Adadelta, KNOWN.Adamax, KNOWN.Nadam,
    KNOWN.Lion, KNOWN.Ftrl,
}  # fmt: skip
PER_TENSOR = {KNOWN.Adafactor, KNOWN.Lamb, KNOWN.Muon}

REFUSED = {
    "gradient_accumulation_steps": "a batch already is a sum of microbatches: choose a larger batch_size",
    "use_ema": "Keras puts the average into the model when fit() ends, Unisono saves the parameters themselves: "
    "average them in an observer or from checkpoints",
    "loss_scale_factor": "it serves float16, Unisono trains in float32 or bfloat16: leave it out",
}
"""Settings that change what a step is, and what to do instead."""


def made(given: Any, steps: int) -> Any:
    """The job's optimizer, checked.

    Args:
        given: `job.optimizer`: a Keras optimizer, or (steps) → one.
        steps: the run's total.

    Raises:
        UsageError: it is another framework's, or has settings that Unisono cannot keep.
    """
    optimizer = given
    if callable(given) and not isinstance(given, type | keras.optimizers.Optimizer):
        optimizer = given(steps)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        received = given if isinstance(given, type | str) else type(optimizer)
        name = f"{received.__module__}.{received.__qualname__}" if isinstance(received, type) else repr(received)
        raise UsageError(
            "job.optimizer of a Keras job is a Keras optimizer or a function (steps) -> one; received "
            f"{name}. Write optimizer=keras.optimizers.Adam(1e-3)."
        )
    if isinstance(optimizer, KNOWN.LossScaleOptimizer):
        raise UsageError(
            "LossScaleOptimizer serves float16, and Unisono trains in float32 or bfloat16. Give the optimizer in it."
        )
    for setting, instead in REFUSED.items():
        if getattr(optimizer, setting, None):
            raise UsageError(f"an optimizer with {setting} does not fit a Unisono job: {instead}.")
    rate = optimizer._learning_rate  # public is only its value at a step
    if callable(rate) and not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule | keras.Variable):
        raise UsageError(
            "a learning rate must be a number or a keras.optimizers.schedules.LearningRateSchedule, so that it is a "
            f"function of the step; received {type(rate).__name__}. Write a LearningRateSchedule."
        )
    return optimizer


def kind_of(optimizer: Any, variables: Sequence[Any]) -> Kind:
    """How the update may be cut, by the optimizer's class and settings; the probe comes later.

    Args:
        optimizer: the job's.
        variables: the trained variables.
    """
    own = type(optimizer).__module__.startswith("keras.")  # not a person's subclass
    listed = next((kind for kind in type(optimizer).__mro__ if kind in ELEMENTWISE | PER_TENSOR), None)
    if not own or listed is None or optimizer.global_clipnorm:
        return "whole"
    constrained = any(getattr(variable, "constraint", None) is not None for variable in variables)
    return "tensor" if listed in PER_TENSOR or optimizer.clipnorm or constrained else "elementwise"


def _neutral() -> type:
    """A class to stand before the backend's in an optimizer's ancestry: what TensorFlow does to `tf.Variable`s is
    done to Keras variables again, so that a StatelessScope sees it; and it notes what each slot belongs to."""

    def add_variable_from_reference(
        self: Any, reference_variable: Any, name: Any = None, initializer: Any = "zeros"
    ) -> Any:
        added = BaseOptimizer.add_variable_from_reference(self, reference_variable, name, initializer)
        self.__dict__.setdefault("noted", {})[id(added)] = (id(reference_variable), name)
        return added

    methods = {name: vars(BaseOptimizer)[name] for name in BACKEND.NEUTRAL}
    ancestor = keras.optimizers.Optimizer.__mro__[1]
    return type("Neutral", (ancestor,), {**methods, "add_variable_from_reference": add_variable_from_reference})


def _copy(optimizer: Any) -> Any:
    """An unbuilt optimizer of the same settings whose steps a StatelessScope can follow."""
    base = type(optimizer)
    kind: Any = type(base.__name__, (base, _neutral()), {"__module__": base.__module__})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a schedule that is a lambda
        config = {**optimizer.get_config(), "learning_rate": 0.0}
    try:
        copy: Any = kind.from_config(config)
    except TypeError as error:
        raise UsageError(
            f"an optimizer is made again from its get_config(); {base.__name__}'s does not fit its __init__: {error}. "
            "Return every argument of __init__ from get_config."
        ) from error
    copy.learning_rate = optimizer._learning_rate
    if getattr(optimizer, "_exclude_from_weight_decay", None):
        raise UsageError(
            "exclude_from_weight_decay(var_list=…) names variables of another model. Name them by text: "
            'exclude_from_weight_decay(var_names=["bias"]).'
        )
    if hasattr(optimizer, "_exclude_from_weight_decay_pattern"):
        copy._exclude_from_weight_decay = set()
        copy._exclude_from_weight_decay_pattern = optimizer._exclude_from_weight_decay_pattern
        copy._exclude_from_weight_decay_cache = {}
    return copy


def decays(optimizer: Any, variable: Any) -> bool:
    """Whether the variable's weights decay: what a piece of it cannot tell by its name."""
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    return pattern is None or pattern.search(variable.name) is None


ITERATIONS = "iterations"

PLAIN = (*SCALARS, list, tuple, dict, set, deque)


class Rule:
    """An optimizer over some variables as a pure function.

    Args:
        optimizer: the job's.
        variables: Keras variables; only their shapes, names and constraints count.

    Attributes:
        vectors: per variable key → (its slot's place in `slots`).
        slots: state variables with a shape.
        compiled: (which variables have a gradient) → `apply` with them, compiled.
        types: the dtypes of the scalars.
        scalars: names of the numbers that all variables share (`iterations`, Nadam's `u_product`).
    """

    def __init__(self, optimizer: Any, variables: Sequence[Any]) -> None:
        self._optimizer = _copy(optimizer)
        bare = keras.optimizers.Optimizer(learning_rate=0.0)
        self._keras_own = frozenset([*vars(bare), "_exclude_from_weight_decay_cache"])  # attributes that are Keras's
        self._variables = list(variables)
        with keras.name_scope(self._optimizer.name):
            self._optimizer.build(self._variables)
        fixed = {id(self._optimizer._learning_rate)}
        state = [v for v in self._optimizer.variables if id(v) not in fixed]
        noted = self._optimizer.__dict__.get("noted", {})
        self.slots = [v for v in state if id(v) in noted or len(v.shape)]
        numbers = [v for v in state if id(v) not in noted and not len(v.shape)]
        # Adafactor keeps integers where it needs no slot; Keras's only integer that moves is the count of steps.
        moving = not type(optimizer).__module__.startswith("keras.")
        self._scalars = [v for v in numbers if v is self._optimizer.iterations or "int" not in v.dtype or moving]
        self.scalars = tuple(ITERATIONS if v is self._optimizer.iterations else v.name for v in self._scalars)
        self.vectors = self._places(noted)
        self.first_slots = [_constant_or_whole(BACKEND.array(value_of(v))) for v in self.slots]
        self.first_scalars = self.floats([value_of(v) for v in self._scalars])
        self.types = [v.dtype for v in self._scalars]
        self.compiled = cache(self._compiled)
        for slot in self.slots:
            slot._value = None  # its memory; only its shape is needed from here on

    def _places(self, noted: Mapping[int, tuple[int, str]]) -> list[dict[str, int]]:
        """Slots without a note (Adafactor's factors) belong to the variable whose slots are being made."""
        at = {id(variable): index for index, variable in enumerate(self._variables)}
        places: list[dict[str, int]] = [{} for _ in self._variables]
        waiting: list[int] = []
        for place, slot in enumerate(self.slots):
            if id(slot) not in noted:
                waiting.append(place)
                continue
            reference, name = noted[id(slot)]
            keys = places[at[reference]]
            for number, other in enumerate(waiting):
                keys[f"factor_{number}"] = other
            waiting = []
            keys[name or "var"] = place
        for number, other in enumerate(waiting):
            places[-1][f"factor_{number}"] = other
        return places

    @property
    def dtype(self) -> str:
        """The parameters' dtype."""
        name: str = self._variables[0].dtype
        return name

    def _compiled(self, used: tuple[int, ...]) -> Callable[..., Any]:
        return BACKEND.compiled(lambda p, g, s, numbers: self.apply(p, g, s, numbers, used))

    def floats(self, numbers: Sequence[Any]) -> list[float]:
        """The numbers that a step gave, for the table."""
        return [float(BACKEND.array(number)) for number in numbers]

    def _beside(self) -> dict[str, Any]:
        """Marks of plain values that the class keeps beside its variables."""
        return {
            name: mark(value, lambda inner: None if isinstance(inner, PLAIN) else id(inner))
            for name, value in vars(self._optimizer).items() if name not in self._keras_own
        }  # fmt: skip

    def apply(self, parameters: Any, gradients: Any, slots: Any, scalars: Any, used: Sequence[int]) -> Any:
        """One step.

        Args:
            parameters, gradients: tensors of the variables.
            slots, scalars: the state.
            used: which variables have a gradient.

        Returns:
            New parameters, slots and scalars.
        """
        mapping = [
            *zip(self._variables, parameters, strict=True), *zip(self.slots, slots, strict=True),
            *zip(self._scalars, scalars, strict=True),
        ]  # fmt: skip
        before = self._beside()
        with keras.StatelessScope(mapping, initialize_variables=False) as scope:
            self._optimizer.apply([gradients[n] for n in used], [self._variables[n] for n in used])
        kept = {id(variable) for variable, _ in mapping}
        lost = [key for key in scope.state_mapping if key not in kept]
        changed = [f"self.{name}" for name, value in self._beside().items() if before.get(name) != value]
        if lost or changed:
            raise UsageError(
                "a Keras optimizer's step is compiled, and what it keeps from step to step is in its own variables; "
                f"{type(self._optimizer).__name__} changes "
                f"{changed[0] if changed else 'a variable that is not among optimizer.variables'}. Make it one: "
                "self.add_variable(shape=(), initializer='zeros', dtype='int32') in build()."
            )
        return tuple([scope.get_current_value(v) for v in group] for group in
                     (self._variables, self.slots, self._scalars))  # fmt: skip


def _constant_or_whole(values: Any) -> Any:
    """A number where all elements are the same: a large slot's first values need not be held."""
    first = values.reshape(-1)[0] if values.size else values.dtype.type(0)
    return first if np.all(values == first) else values.copy()
