"""A model's parameters over shared memory: which memory they use when, and what would spoil it.

In predict mode MXNet's convolutions (oneDNN) rewrite their weight's memory in a layout of their own, for good. Workers
share that memory, so evaluation computes with copies, and the same inside of training is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from mxnet import autograd
from mxnet.gluon import Block

from unisono.errors import JobError, SpoiledError, UsageError
from unisono.frameworks.arrays import aligned_copy
from unisono.frameworks.mxnet import parameters as held
from unisono.frameworks.protocol import Array
from unisono.frameworks.unchanged import Samples, refusal

WAYS_OUT = (
    "A weight that is normed or clipped: compute it in forward, without writing it back. A copy that follows by a "
    "moving average: a parameter with grad_req='null' whose name does not end in weight, which forward may change"
)


class Weights:
    """The parameters of an initialised model.

    Args:
        model: the block.

    Attributes:
        names: every name that is saved.
        parameters: (name, parameter) by number, trained and frozen ones.
        trained: number → parameter.
        buffers: (name, parameter) of what the forward pass changes.
        live: the buffers' arrays, of this process alone.
    """

    def __init__(self, model: Block) -> None:
        model.apply(held.check_static)
        self.names = held.names(model)
        unique = {id(parameter): (name, parameter) for name, parameter in reversed(self.names.items())}
        ordered = [unique.pop(id(parameter)) for parameter in self.names.values() if id(parameter) in unique]
        for name, parameter in ordered:
            held.check(name, parameter)
        self.parameters = [pair for pair in ordered if not held.is_buffer(*pair)]
        self.buffers = [pair for pair in ordered if held.is_buffer(*pair)]
        self.trained = {n: p for n, (_, p) in enumerate(self.parameters) if p.grad_req != "null"}
        if not self.trained:
            raise UsageError("nothing to train: every parameter of the model has grad_req='null'.")
        self.live = [aligned_copy(parameter.data().asnumpy()) for _, parameter in self.buffers]
        for (_, parameter), array in zip(self.buffers, self.live, strict=True):
            parameter._data = [held.over(array)]
        self._training = False  # whether a microbatch is being computed
        self._shared: list[Any] = []  # one MXNet array a parameter over shared memory, once bound
        self._samples = Samples(())
        self._copied: int | None = None  # the step whose parameters are copied for evaluation
        model.apply(self._watch)

    def bind(self, arrays: Sequence[Array]) -> None:
        """Lie over these arrays. MXNet's own gradient arrays go: every microbatch brings its own."""
        self._shared, self._samples = [held.over(array) for array in arrays], Samples(arrays)
        self._use(self._shared)
        for _, parameter in self.parameters:
            parameter._grad = None

    def _use(self, arrays: Sequence[Any]) -> None:
        for (_, parameter), array in zip(self.parameters, arrays, strict=True):
            parameter._data = [array]

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """A block in which a microbatch is computed, on shared memory itself."""
        if self._copied is not None:
            self._use(self._shared)
            self._copied = None
        self._training = True
        try:
            yield
        finally:
            self._training = False

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Hold what is done in this block to leaving the parameters as they are.

        Raises:
            SpoiledError: it has changed one.
        """
        before = self._samples.read()
        yield
        after = self._samples.read()
        if after != before:
            name, _ = self.parameters[self._samples.first_other(before, after)]
            raise SpoiledError(refusal(repr(name), WAYS_OUT))

    def use_copies(self, step: int) -> None:
        """Evaluate with copies of the parameters after so many steps."""
        if self._shared and self._copied != step:
            self._use([array.copy() for array in self._shared])
            self._copied = step

    def _watch(self, block: Block) -> None:
        if any(len(parameter.shape) > 2 for parameter in block.collect_params().values()):
            block.register_forward_pre_hook(self._guard)

    def _guard(self, block: Block, inputs: Any) -> None:
        if self._training and not autograd.is_training():
            raise JobError(
                f"while a microbatch is computed, a convolution may not run in predict mode, where MXNet rewrites "
                f"its weights; {block.name!r} does. Call it under autograd.pause(train_mode=True), or compute "
                "its outputs beforehand and make them part of the data."
            )
