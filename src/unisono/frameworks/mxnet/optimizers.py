"""MXNet's optimizers: what a job may give as one, of what kind it is, what state it has, its learning rate."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mxnet
import numpy as np
from mxnet import optimizer as mx
from mxnet.gluon import Parameter
from mxnet.ndarray import NDArray

from unisono.errors import JobError, UsageError
from unisono.frameworks.jobs import kind_by_probe
from unisono.frameworks.protocol import Array, StateSpec
from unisono.gradients.regions import BLOCK, Kind
from unisono.trees.marks import mark

ELEMENTWISE = {
    mx.SGD, mx.ccSGD, mx.NAG, mx.Signum, mx.FTML, mx.Adam, mx.AdaGrad, mx.RMSProp, mx.AdaDelta, mx.Ftrl, mx.Adamax,
}  # fmt: skip
PER_TENSOR = {mx.LAMB, mx.LARS, mx.contrib.GroupAdaGrad}

COUNT = "count"
"""The scalar of every parameter: how often it was updated."""

SAMPLE = 4
"""Elements along each axis of what stands for a parameter where each element has its own state."""

EXACT = 1 << 53

OWN = {"_index_update_count", "_all_index_update_counts", "num_update", "lr", "lr_scheduler", "param_dict"}
"""What an optimizer keeps of its progress that is set from outside before each update."""


def built(asked: Any, schedule: Callable[..., Any] | None, steps: int) -> mx.Optimizer:
    """The optimizer that a job asks for: an object, a name, a class, or (steps) → one of them; with its schedule.

    Raises:
        UsageError: it is none.
    """
    found = asked() if isinstance(asked, type) else asked(steps) if callable(asked) else asked
    if isinstance(found, str):
        try:
            found = mx.create(found)
        except ValueError as error:
            raise UsageError(
                f"MXNet has no optimizer {found!r}. It has: {', '.join(sorted(mx.Optimizer.opt_registry))}."
            ) from error
    if not isinstance(found, mx.Optimizer):
        raise UsageError(
            "the optimizer of an MXNet job is an mx.optimizer.Optimizer, its name, or (steps) -> one; received "
            f"{type(found).__name__}. Write optimizer=mx.optimizer.Adam(learning_rate=1e-3), not a gluon.Trainer."
        )
    optimizer = copy.deepcopy(found)  # the job's own may serve another run in this process
    if schedule is not None:
        optimizer.lr_scheduler = copy.deepcopy(schedule(optimizer, steps))
    return optimizer


def leaves(state: Any, path: str = "state") -> Iterator[tuple[str, NDArray]]:
    """The arrays of what `create_state` gave, by their place in it.

    Raises:
        UsageError: something else than arrays, tuples and None.
    """
    if isinstance(state, NDArray):
        yield path, state
    elif isinstance(state, tuple | list):
        for index, member in enumerate(state):
            yield from leaves(member, f"{path}.{index}")
    elif state is not None:
        raise UsageError(
            f"an optimizer's state is arrays, so that any worker can go on with it; create_state gave "
            f"{type(state).__name__}. Return NDArrays, tuples of them, or None."
        )


class Master:
    """The job's optimizer over the whole model, which itself updates nothing: clones of it update pieces.

    Args:
        optimizer: what `built` gave.
        parameters: the trained ones by number, for their `lr_mult` and `wd_mult`.
    """

    def __init__(self, optimizer: mx.Optimizer, parameters: Mapping[int, Parameter]) -> None:
        self._optimizer, self._parameters = optimizer, dict(parameters)
        self.name = type(optimizer).__name__
        self.settings = {"class": self.name, "groups": [self._plain()]}
        self.steps = 0
        self.rate = self._rate()
        self.numbers = self._changing_numbers()
        self.kind: Kind = self._kind()
        self.spec = StateSpec.of(self._vectors(), (COUNT, *self.numbers))

    def _plain(self) -> dict[str, Any]:
        """The plain values of the optimizer and its parameters' multipliers, to compare one job with another."""
        values = {name: value for name, value in sorted(vars(self._optimizer).items())
                  if name != "num_update" and isinstance(value, int | float | str | None)}  # fmt: skip
        schedule = self._optimizer.lr_scheduler
        multipliers = [[parameter.lr_mult, parameter.wd_mult] for parameter in self._parameters.values()]
        return {**values, "lr_scheduler": schedule and type(schedule).__name__, "multipliers": multipliers}

    def _rate(self) -> float:
        """The learning rate of the step to come. MXNet counts updates from 1 when it asks its schedule."""
        schedule = self._optimizer.lr_scheduler
        return float(self._optimizer.lr if schedule is None else schedule(self.first_count + self.steps + 1))

    @property
    def first_count(self) -> int:
        """Updates that count as done at the start (`begin_num_update`)."""
        return int(self._optimizer.begin_num_update)

    def advance(self) -> None:
        """A step is done."""
        self.steps += 1
        self.rate = self._rate()

    def clone(self) -> mx.Optimizer:
        """One of the same class and settings; `prepare` it before an update."""
        clone = copy.copy(self._optimizer)
        clone.lr_scheduler, clone.param_dict = None, self._parameters
        self.prepare(clone, {})
        return clone

    def beside(self, clone: mx.Optimizer) -> dict[str, Any]:
        """Marks of what a clone keeps in itself besides `numbers`: no other worker would see it change."""
        return {
            name: mark(value, lambda inner: id(inner) if isinstance(inner, NDArray | Parameter) else None)
            for name, value in vars(clone).items() if name not in OWN and name not in self.numbers
        }  # fmt: skip

    def prepare(self, clone: mx.Optimizer, counts: Mapping[int, int]) -> None:
        """Put a clone at the present step.

        Args:
            clone: what `clone` gave.
            counts: how often each parameter was updated.
        """
        clone.lr, clone.num_update = self.rate, self.first_count + self.steps
        clone._all_index_update_counts = {0: dict(counts)}
        clone._index_update_count = clone._all_index_update_counts[0]

    def initial(self, number: int, weight: Any) -> tuple[dict[str, Array], list[float]]:
        """(state arrays, scalars) of a parameter before its first update."""
        state = self._optimizer.create_state(number, weight)
        numbers = [number_of(getattr(self._optimizer, name)) for name in self.numbers]
        return {path: array.asnumpy() for path, array in leaves(state)}, [float(self.first_count), *numbers]

    def _vectors(self) -> Iterator[tuple[str, int, Sequence[int], str]]:
        for number, parameter in self._parameters.items():
            shape, each = tuple(parameter.shape), self.kind == "elementwise"
            weight = mxnet.nd.zeros([min(size, SAMPLE) for size in shape] if each else shape, dtype=parameter.dtype)
            for path, array in leaves(self._optimizer.create_state(number, weight)):
                yield path, number, shape if each else array.shape, np.dtype(array.dtype).name

    # -- probes --------------------------------------------------------------------------------------------

    def _updated(self, parts: Sequence[Array], gradients: Sequence[Sequence[Array]]) -> mx.Optimizer:
        """Run a clone on parts, as parameters of no number, for as many steps as there are gradients of each."""
        clone = self.clone()
        updater = mx.Updater(clone)
        weights = [mxnet.nd.array(part, dtype=part.dtype) for part in parts]
        for step in gradients:
            updater([-1 - n for n in range(len(parts))], [mxnet.nd.array(g, dtype=g.dtype) for g in step], weights)
        for part, weight in zip(parts, weights, strict=True):
            part[...] = weight.asnumpy()
        return clone

    def _changing_numbers(self) -> dict[str, type]:
        """Numbers that the optimizer keeps in itself (Nadam's `m_schedule`), with their types.

        Raises:
            UsageError: it keeps something else there, which no other worker would see.
        """
        before = copy.deepcopy(vars(self.clone()))
        steps = [[np.linspace(-1, 1 + step, 64, dtype=np.float32).reshape(8, 8)] for step in range(2)]
        after = vars(self._updated([np.linspace(0.5, 2, 64, dtype=np.float32).reshape(8, 8)], steps))
        changed = [name for name in sorted(after) if name not in OWN and not _same(before.get(name), after[name])]
        for name in changed:
            if not isinstance(after[name], int | float):
                raise UsageError(
                    f"an optimizer's state is what create_state returns, so that any worker can go on with it; "
                    f"{self.name} keeps {name!r} in itself. Move it there, or use another optimizer."
                )
        return {name: type(after[name]) for name in changed}

    def _kind(self) -> Kind:
        if type(self._optimizer) in PER_TENSOR:
            return "tensor"
        if type(self._optimizer) not in ELEMENTWISE:
            return "whole"
        return kind_by_probe(self.name, self._is_elementwise())

    def _is_elementwise(self) -> bool:
        """Whether three steps on pieces give the bits of three steps on the whole."""
        whole = np.linspace(0.5, 2, 2 * BLOCK + 77, dtype=np.float32)
        places = [BLOCK, 2 * BLOCK]
        pieces = [part.copy() for part in np.split(whole, places)]
        gradients = [np.linspace(-1, 1 + step, whole.size, dtype=np.float32) for step in range(3)]
        self._updated([whole], [[gradient] for gradient in gradients])
        self._updated(pieces, [np.split(gradient, places) for gradient in gradients])
        return whole.tobytes() == np.concatenate(pieces).tobytes()  # bits: Adamax gives NaN where all was zero


def _same(before: Any, after: Any) -> bool:
    try:
        return bool(before == after)
    except ValueError:  # arrays
        return False


def number_of(value: float | None) -> float:
    """None (LARS before its first update) travels as NaN.

    Raises:
        JobError: an integer that a float64 does not hold.

    >>> number_of(2**53)
    9007199254740992.0
    """
    if isinstance(value, int) and abs(value) > EXACT:
        raise JobError(
            f"an integer that an optimizer keeps in itself may be at most 2**53, to be kept exactly; received {value}. "
            "Count in smaller numbers, or keep it in an array of create_state."
        )
    return math.nan if value is None else float(value)
