"""Calls computed in the script itself: the reference that any number of workers is held to."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from unisono.scripts.pytorch.devices import Keyed, devices_of, elsewhere
from unisono.scripts.pytorch.failures import told
from unisono.scripts.pytorch.left import Names
from unisono.scripts.pytorch.parametrized import uncached
from unisono.scripts.pytorch.parts import Parts
from unisono.scripts.pytorch.replica import Replica
from unisono.scripts.pytorch.request import Answer, Gradients, Request
from unisono.scripts.pytorch.travelling import Like
from unisono.scripts.pytorch.values import added, own_copy
from unisono.scripts.pytorch.wrapping import INSIDE
from unisono.scripts.tree_sums import folded, total_of


class Borrowed(Replica):
    """Computes by the script's own targets, which have other parameters and buffers meanwhile.

    Their gradients are this object's own, and hooks of the script's parameters hear of the sum alone.
    """

    def __init__(self, parts: Parts) -> None:
        own = [Like.of(parameter).over(parameter.detach()) for parameter in parts.parameters]
        super().__init__(parts, own)
        self._places = parts.places()
        self._devices = dict.fromkeys(devices_of(parts))
        self.keyed = Keyed(self._devices)

    def meet(self, leaves: Sequence[Any]) -> None:
        """Arguments may be on devices of their own."""
        new = elsewhere(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
        if not self._devices.keys() >= set(new):
            self._devices.update(dict.fromkeys(new))
            self.keyed = Keyed(self._devices)

    def _seed(self, number: int) -> None:
        super()._seed(number)
        self.keyed.seed(number)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        parts = self.parts
        buffers = [module._buffers[name] for module, name in parts.buffers]
        names = Names(parts)
        token = INSIDE.set(True)
        try:
            for number, put in self._places:
                put(self.parameters[number])
            with uncached():
                yield
        finally:
            INSIDE.reset(token)
            for number, put in self._places:
                put(parts.parameters[number])
            names.restore()
            for (module, name), buffer in zip(parts.buffers, buffers, strict=True):
                module._buffers[name] = buffer
            self._settled = None


class Here:
    """Computes in this process.

    Args:
        parts: the targets.
    """

    def __init__(self, parts: Parts) -> None:
        self._replica = Borrowed(parts)
        self._dropped: list[int] = []

    def forward(
        self, request: Request, leaves: Sequence[Sequence[Any]], buffers: Sequence[torch.Tensor]
    ) -> list[Answer]:
        """See `Computer`."""
        self._drop()
        self._replica.meet(leaves[0])
        with _as_a_worker(), self._replica.keyed.hold():
            return [
                self._forward(request, number, [own_copy(leaf) for leaf in each], buffers)
                for number, each in enumerate(leaves)
            ]

    def _forward(
        self, request: Request, microbatch: int, leaves: Sequence[Any], buffers: Sequence[torch.Tensor]
    ) -> Answer:
        with told(request, "forward", microbatch):
            return self._replica.forward(request, microbatch, leaves, buffers)

    def backward(self, request: Request, gradients: Sequence[Sequence[torch.Tensor | None]], keep: bool) -> Gradients:
        """See `Computer`."""
        inputs: list[list[torch.Tensor | None]] = []

        def of(microbatch: int) -> list[torch.Tensor | None]:
            with told(request, "backward", microbatch):
                own = [None if each is None else each.clone() for each in gradients[microbatch]]  # aligned, as workers'
                parameters, its_inputs = self._replica.backward(request.number, microbatch, own, keep)
            inputs.append(its_inputs)
            return parameters

        count, adding = len(request.pieces), partial(added, request.state.numerics)
        with _as_a_worker(), self._replica.keyed.hold():
            nodes = folded(range(count), count, of, adding)
            return Gradients(total_of(nodes, count, adding), inputs)

    def is_here(self, request: Request) -> bool:
        """See `Computer`: always."""
        return True

    def drop(self, call: int) -> None:
        """Nobody asks for a call's backward pass any more."""
        self._dropped.append(call)  # the garbage collector says it, at any time

    def _drop(self) -> None:
        while self._dropped:
            self._replica.drop(self._dropped.pop())

    def resize(self, workers: int) -> None:
        """See `Computer`: there are none."""

    def processes(self) -> list[int]:
        """Of workers: none."""
        return []

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def _as_a_worker() -> Iterator[None]:
    """A block that computes on one thread, after which the script's generators are as they were."""
    states, threads = (torch.get_rng_state(), random.getstate(), np.random.get_state()), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
