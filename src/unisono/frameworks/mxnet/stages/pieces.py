"""A chain of leaf blocks, and the recording of one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from mxnet import autograd
from mxnet.base import MXNetError
from mxnet.gluon import Block
from mxnet.gluon.nn import HybridSequential, Sequential
from mxnet.ndarray import NDArray
from mxnet.ndarray.ndarray import _new_alloc_handle

from unisono.errors import UsageError
from unisono.frameworks.cuts import numbered
from unisono.frameworks.mxnet.data import as_framework
from unisono.frameworks.mxnet.weights import Weights
from unisono.frameworks.protocol import Indices

CHAINS = (Sequential, HybridSequential)
"""Blocks that call their children one after another; subclasses may do anything."""


@dataclass(frozen=True)
class Piece:
    """A leaf block at its place in the chain.

    Attributes:
        name: its place ("2.0").
        block: the block; one that is used twice is two pieces.
        parameters, trained, buffers: the numbers of those that it uses.
    """

    name: str
    block: Block
    parameters: Indices
    trained: Indices
    buffers: Indices


def pieces_of(model: Block, weights: Weights) -> tuple[Piece, ...]:
    """The leaf blocks of nested `Sequential`s in the order in which they are called.

    Raises:
        UsageError: the model is none.
    """
    if type(model) not in CHAINS:
        raise UsageError(
            f"a gluon model is cut between the blocks of a Sequential or HybridSequential; received "
            f"{type(model).__name__}, whose order of calls only its own code knows. Build it with "
            "nn.HybridSequential(), or train it with pipeline=1."
        )
    parameters, buffers = ([one for _, one in pairs] for pairs in (weights.parameters, weights.buffers))
    found = []
    for name, block in _leaves(model, ""):
        held = block.collect_params().values()
        numbers = numbered(held, parameters)
        trained = tuple(number for number in numbers if number in weights.trained)
        found.append(Piece(name, block, numbers, trained, numbered(held, buffers)))
    return tuple(found)


def _leaves(block: Block, path: str) -> Iterator[tuple[str, Block]]:
    for name, child in block._children.items():
        if type(child) in CHAINS:
            yield from _leaves(child, f"{path}{name}.")
        else:
            yield f"{path}{name}", child


Form = Any
"""How arrays are nested, in what JSON can hold: "array", "none", or the kind of a sequence and its members' forms."""


@dataclass(frozen=True)
class Value:
    """What goes from one block to the next.

    Attributes:
        arrays: its arrays.
        form: how they are nested.
        recorded: which of them take a gradient.
    """

    arrays: Sequence[Any]
    form: Form
    recorded: Sequence[bool]

    @property
    def nbytes(self) -> int:
        """The size of its arrays."""
        return sum(array.size * np.dtype(array.dtype).itemsize for array in self.arrays)

    def passed(self) -> Value:
        """The same without its past, as the next block takes it."""
        return Value([array.detach() for array in self.arrays], self.form, self.recorded)

    def built(self, arrays: Iterable[Any]) -> Any:
        """Arrays, nested like its own."""
        return _nested(self.form, iter(arrays))


def entered(inputs: Any) -> Value:
    """A microbatch's inputs as the first block takes them.

    Raises:
        UsageError: they are not one array.
    """
    array = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
    if not isinstance(array, NDArray):
        raise UsageError(
            f"a Sequential takes one array; the inputs are a {type(inputs).__name__}. Make them one array, or train a "
            "block of your own with pipeline=1."
        )
    return Value([array], "array", [False])


def _value(result: Any, marked: Iterable[Marked | None], name: str) -> Value:
    """What a block gave, as a value.

    Raises:
        UsageError: it holds something other than arrays.
    """
    arrays: list[Any] = []
    form = _flattened(result, arrays, name)
    names = {autograd.get_symbol(one.handle).name for one in marked if one is not None}
    return Value(arrays, form, [not names.isdisjoint(_sources(array)) for array in arrays])


def _flattened(result: Any, arrays: list[Any], name: str) -> Form:
    if result is None:
        return "none"
    if type(result) in (tuple, list):
        return [type(result).__name__, *(_flattened(member, arrays, name) for member in result)]
    if not isinstance(result, NDArray):
        raise UsageError(
            f"blocks of a model that is cut pass arrays, or lists and tuples of them, to each other; block {name!r} "
            f"gives {type(result).__name__}. Make it do so, or train with pipeline=1."
        )
    arrays.append(result)
    return "array"


def _nested(form: Form, arrays: Iterator[Any]) -> Any:
    if isinstance(form, str):
        return next(arrays) if form == "array" else None
    members = [_nested(member, arrays) for member in form[1:]]
    return tuple(members) if form[0] == "tuple" else members


def _sources(array: Any) -> list[str]:
    """The names of what an array was computed from in recorded operations."""
    try:
        return autograd.get_symbol(array).list_inputs()  # type: ignore[no-any-return]
    except MXNetError:  # it was not recorded
        return []


@dataclass(frozen=True)
class Marked:
    """A handle of its own for an array, and where its gradient goes."""

    handle: Any
    gradient: Any

    def found(self) -> Any:
        """Its gradient; None where the backward pass has not come by."""
        return self.gradient if self.handle._fresh_grad else None


def marked(array: Any, gradient: Any = None) -> Marked:
    """See `Marked`; a gradient that is not given takes no memory until the backward pass writes it."""
    handle = array.detach()
    if gradient is None:
        gradient = type(array)(handle=_new_alloc_handle(array.shape, array.ctx, True, array.dtype))
    autograd.mark_variables([handle], [gradient], "write")
    return Marked(handle, gradient)


@dataclass(frozen=True)
class Recorded:
    """A recorded forward pass.

    Attributes:
        given: the arrays that it took; None for one that takes no gradient.
        parameters: by number.
        value: what it gave, with its past.
    """

    given: Sequence[Marked | None]
    parameters: Mapping[int, Marked]
    value: Value

    def backward(self, gradients: Sequence[Any]) -> tuple[list[Any], dict[int, Any]]:
        """The gradients of what it took (None where there is none), and those that there are of its parameters.

        Args:
            gradients: those of what it gave, or None.
        """
        triples = zip(self.value.arrays, gradients, self.value.recorded, strict=True)
        heads = [(array, gradient) for array, gradient, known in triples if known and gradient is not None]
        if heads:
            # What several microbatches in flight have in common (a constant, running statistics) is a node of each
            # one's graph, which must outlive the first one's backward pass.
            autograd.backward([array for array, _ in heads], [gradient for _, gradient in heads], retain_graph=True)
        return self.found()

    def found(self) -> tuple[list[Any], dict[int, Any]]:
        """The same after a backward pass."""
        parameters = {number: one.found() for number, one in self.parameters.items()}
        return (
            [None if one is None else one.found() for one in self.given],
            {number: gradient for number, gradient in parameters.items() if gradient is not None},
        )

    def move_buffers(self) -> None:
        """Let BatchNorm move its running statistics, which it does in its backward pass: go backward with zeros."""
        heads = [array for array, known in zip(self.value.arrays, self.value.recorded, strict=True) if known]
        reached = {name for head in heads for name in _sources(head)}
        handles = [one.handle for one in (*self.given, *self.parameters.values()) if one is not None]
        handles = [handle for handle in handles if autograd.get_symbol(handle).name in reached]
        if handles:  # the gradients are new arrays, which go at once
            autograd.grad(heads, handles, [filled(0, head.shape, head.dtype) for head in heads], retain_graph=True)


def filled(number: float, shape: Sequence[int], dtype: Any) -> Any:
    """An array of one number, of the kind that blocks take."""
    return as_framework(np.full(shape, number, dtype))


def record(piece: Piece, weights: Weights, value: Value) -> Recorded:
    """Run a block in training mode and record it."""
    given, arrays = _taken(value)
    parameters = {number: marked(weights.trained[number].data()) for number in piece.trained}
    with _using(weights, parameters), autograd.record():
        result = piece.block(value.built(arrays))
    return Recorded(given, parameters, _value(result, [*given, *parameters.values()], piece.name))


def record_loss(loss: Callable[[Any], tuple[Any, float]], value: Value) -> tuple[Recorded, float]:
    """Record (Σ loss, weight) of what the last block gave."""
    given, arrays = _taken(value)
    with autograd.record():
        total, weight = loss(value.built(arrays))
    return Recorded(given, {}, Value([total], "array", [True])), weight


def run(piece: Piece, value: Value) -> Value:
    """Run a block in training mode, unrecorded."""
    with autograd.pause(train_mode=True):
        return _value(piece.block(value.built(value.arrays)), [], piece.name)


def _taken(value: Value) -> tuple[list[Marked | None], list[Any]]:
    """Per array the marked handle, or None; and what the block is called with."""
    given = [marked(array) if known else None for array, known in zip(value.arrays, value.recorded, strict=True)]
    return given, [array if one is None else one.handle for array, one in zip(value.arrays, given, strict=True)]


@contextmanager
def _using(weights: Weights, parameters: Mapping[int, Marked]) -> Iterator[None]:
    """Within, blocks see these handles of the parameters."""
    before = {number: weights.trained[number]._data for number in parameters}
    for number, one in parameters.items():
        weights.trained[number]._data = [one.handle]
    try:
        yield
    finally:
        for number, data in before.items():
            weights.trained[number]._data = data
