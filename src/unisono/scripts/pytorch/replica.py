"""Computes microbatches of a script's calls, wherever it is: by a copy of the targets, or by themselves."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_unflatten

from unisono.errors import UsageError
from unisono.frameworks.pytorch.data import seed_everything
from unisono.partition.keys import key
from unisono.scripts.pytorch.cutter import holds_tensors
from unisono.scripts.pytorch.devices import elsewhere
from unisono.scripts.pytorch.left import Arguments, Before, Made
from unisono.scripts.pytorch.nests import flat
from unisono.scripts.pytorch.parts import Parts
from unisono.scripts.pytorch.request import Answer, Request, State
from unisono.scripts.pytorch.steady import Steady
from unisono.scripts.pytorch.wrapping import plain_class
from unisono.trees.marks import SCALARS


@dataclass
class _Graph:
    """What a microbatch's forward pass keeps for its backward pass."""

    request: Request
    outputs: list[torch.Tensor]
    inputs: list[torch.Tensor]
    buffers: list[torch.Tensor]


class Replica:
    """Computes microbatches by a copy of the script's targets.

    Args:
        parts: the copy; its parameters' values are the script's own.
        parameters: what gradients are of: the copy's, in their order.
    """

    def __init__(self, parts: Parts, parameters: Sequence[torch.Tensor]) -> None:
        self.parts, self.parameters = parts, parameters
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._settled: State | None = None
        self._before: tuple[Request, Before] | None = None
        self._made: Made = {}

    def has_graph(self, call: int, microbatch: int) -> bool:
        """Whether a microbatch's backward pass can be computed here."""
        return (call, microbatch) in self._graphs

    def forward(
        self, request: Request, microbatch: int, leaves: Sequence[Any], buffers: Sequence[torch.Tensor]
    ) -> Answer:
        """Compute a microbatch.

        Args:
            request: the call.
            microbatch: its number; randomness depends on it.
            leaves: its arguments, this copy's own.
            buffers: their values before the call; they stay as they are.

        Raises:
            UsageError: it does what a call cannot do.
        """
        own = [buffer.clone() for buffer in buffers]
        args, kwargs = tree_unflatten(list(leaves), request.spec)
        arguments = Arguments(leaves, request.spec, args, kwargs)
        with self._computing(request, "forward", microbatch, own), self._watched(request, arguments):
            with torch.set_grad_enabled(request.grad):
                target = self.parts.targets[request.target]
                if isinstance(target, nn.Module):
                    outputs = plain_class(target).forward(target, *args, **kwargs)
                else:
                    outputs = target(*args, **kwargs)
            found, spec = flat(outputs)
            for output in found:
                self._check_output(output, leaves)
            changed = [self._changed(*each) for each in zip(self.parts.buffers, buffers, strict=True)]
            now = [module._buffers[name] for module, name in self.parts.buffers]
        tensors = [output for output in found if isinstance(output, torch.Tensor)]
        if request.grad and request.keeps:
            inputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
            held = _Graph(request, tensors, inputs, [buffer for buffer in now if buffer is not None])
            self._graphs[request.number, microbatch] = held
        return Answer(
            [output.detach() if isinstance(output, torch.Tensor) else output for output in found],
            spec,
            [output.requires_grad for output in tensors],
            changed,
        )

    def backward(
        self, call: int, microbatch: int, gradients: Sequence[torch.Tensor | None], keep: bool
    ) -> tuple[list[torch.Tensor | None], list[torch.Tensor | None]]:
        """The gradients of a microbatch's parameters and of its inputs.

        Args:
            call, microbatch: whose forward pass this copy has computed.
            gradients: of its outputs that are tensors.
            keep: whether another backward pass may come.
        """
        graph = self._graphs[call, microbatch] if keep else self._graphs.pop((call, microbatch))
        pairs = [
            (output, gradient)
            for output, gradient in zip(graph.outputs, gradients, strict=True)
            if gradient is not None and output.requires_grad
        ]
        if not pairs:
            return [None] * len(self.parameters), [None] * len(graph.inputs)
        with self._computing(graph.request, "backward", microbatch, graph.buffers):
            torch.autograd.backward(
                [output for output, _ in pairs], [gradient for _, gradient in pairs], retain_graph=keep
            )
            return _taken(self.parameters), _taken(graph.inputs)

    def drop(self, call: int) -> None:
        """Nobody asks for a call's backward pass any more."""
        for each in [each for each in self._graphs if each[0] == call]:
            del self._graphs[each]

    # -- how it computes -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _computing(
        self, request: Request, act: str, microbatch: int, buffers: Sequence[torch.Tensor]
    ) -> Iterator[None]:
        with self._in_place():
            self._settle(request.state)
            for (module, name), buffer in zip(self.parts.buffers, buffers, strict=True):
                module._buffers[name] = buffer
            self._seed(key(request.draw, act, microbatch))
            steady = Steady() if request.steady else contextlib.nullcontext()  # type: ignore[no-untyped-call]
            numerics = request.state.numerics
            if act == "backward":
                numerics = replace(numerics, autocast=None)  # as where a script calls backward()
            with numerics.hold(), steady, _as_written():
                yield

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """A block in which the targets have this replica's parameters, as a copy always has."""
        yield

    def _seed(self, number: int) -> None:
        seed_everything(number)

    def _settle(self, state: State) -> None:
        for module, training in zip(self.parts.every, state.training, strict=True):
            module.training = training  # a call may switch it, of one microbatch
        for parameter, wanted in zip(self.parameters, state.requires_grad, strict=True):
            parameter.requires_grad_(wanted)
        if state is self._settled:
            return
        self.parts.set_attributes(state.attributes)
        self.parts.set_globals(state.globals)
        self._settled = state

    @staticmethod
    def _changed(place: tuple[nn.Module, str], before: torch.Tensor) -> torch.Tensor | None:
        module, name = place
        now = module._buffers.get(name)
        if now is None or now.shape != before.shape or now.dtype != before.dtype:
            raise UsageError(
                f"a buffer that a parallel call changes keeps its shape and dtype; {type(module).__name__}.{name} was "
                f"{tuple(before.shape)} ({before.dtype}). Make it before the call, or return it."
            )
        return None if torch.equal(now, before) else now.detach()  # batch norm leaves the version as it is

    def _check_output(self, output: Any, leaves: Sequence[Any]) -> None:
        if not isinstance(output, torch.Tensor):
            if type(output) not in SCALARS and holds_tensors(output):
                is_cache = type(output).__module__.startswith("transformers.")
                way_out = "Return its tensors, and make it of them outside the call."
                raise UsageError(
                    "a parallel call returns tensors, numbers and texts, in tuples, lists, dictionaries and "
                    f"dataclasses; received a {type(output).__name__} with tensors inside. "
                    f"{'Set model.config.use_cache = False.' if is_cache else way_out}"
                )
            return
        if output.layout is not torch.strided:
            raise UsageError(
                f"a parallel call returns dense tensors; received one that is {output.layout}. Convert it inside."
            )
        known = [each for each in (*self.parameters, *leaves) if isinstance(each, torch.Tensor)]
        if output.device in elsewhere([output]) and output.device not in elsewhere(known):
            raise UsageError(
                f"a parallel call returns tensors where its parameters or arguments are; received one on "
                f"{output.device}. Move it outside the call."
            )

    @contextlib.contextmanager
    def _watched(self, request: Request, arguments: Arguments) -> Iterator[None]:
        """A block in which a forward pass is computed: refuse what would be lost with this copy, or another in each."""
        if self._before is None or self._before[0] is not request:
            self._before = request, Before(self.parts, self.parameters)
        _, before = self._before
        try:
            yield
            if any(parameter.grad is not None for parameter in self.parameters):
                raise UsageError(
                    "a parallel call returns what is differentiated outside it; received one that calls backward() "
                    "inside. Use torch.autograd.grad inside, or call backward() on what it returns."
                )
            before.check((request.target, request.steady, request.state.training, arguments.shapes()), self._made)
            arguments.check()
        finally:
            before.names.restore()


def _as_written() -> contextlib.AbstractContextManager[Any]:
    """A block without torch.compile: what it makes of a module depends on the shapes that a process has seen."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


def _taken(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """Their gradients, which they have no more."""
    found = []
    for tensor in tensors:
        gradient, tensor.grad = tensor.grad, None
        if gradient is not None and gradient.layout is not torch.strided:
            raise UsageError(
                f"gradients in a parallel call are dense; received one that is {gradient.layout}. Give the embedding "
                "sparse=False."
            )
        found.append(gradient)
    return found
