"""Targets of a script and who computes them: what the script changes in between is seen here."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from unisono.errors import UsageError
from unisono.scripts.plain import copied
from unisono.scripts.pytorch.computed import computed
from unisono.scripts.pytorch.contents import Look, Same, is_same
from unisono.scripts.pytorch.numerics import Numerics
from unisono.scripts.pytorch.parts import Parts
from unisono.scripts.pytorch.request import Answer, Gradients, Request, State
from unisono.scripts.pytorch.travelling import packed
from unisono.scripts.turns import TURN


class Computer(Protocol):
    """Computes microbatches of calls."""

    def forward(
        self, request: Request, leaves: Sequence[Sequence[Any]], buffers: Sequence[torch.Tensor]
    ) -> list[Answer]:
        """Compute a call's microbatches.

        Args:
            request: the call.
            leaves: each microbatch's arguments.
            buffers: their values before the call.

        Returns:
            Each microbatch's outputs; their tensors may lie where the next act writes.
        """

    def backward(self, request: Request, gradients: Sequence[Sequence[torch.Tensor | None]], keep: bool) -> Gradients:
        """Compute a call's backward passes.

        Args:
            request: the call.
            gradients: of each microbatch's outputs that are tensors.
            keep: whether another backward pass may come.

        Returns:
            The gradients, summed.
        """

    def is_here(self, request: Request) -> bool:
        """Whether a call is computed in this process."""

    def drop(self, call: int) -> None:
        """Nobody asks for a call's backward pass any more."""

    def resize(self, workers: int) -> None:
        """Have another number of workers; at least 1."""

    def processes(self) -> list[int]:
        """Of workers."""

    def close(self) -> None:
        """Give everything back."""


Opened = Callable[[Parts, bytes], Computer]


class World:
    """The targets as they are now.

    Args:
        targets: modules, and functions over modules.
        opened: makes who computes them.
        heard: called once a backward pass is through.
    """

    def __init__(self, targets: Sequence[Any], opened: Opened, heard: Callable[[World], None]) -> None:
        self._targets, self._opened, self._heard = list(targets), opened, heard
        self._number, self._since = 0, 0
        self._computer: Computer | None = None
        self._end: weakref.finalize[Any, Any]
        self._signature: Any = None
        self.parts: Parts
        self.refresh()

    def numbered(self) -> int:
        """The next call's number."""
        self._number += 1
        return self._number

    def refresh(self) -> None:
        """See what the script has replaced since the last call, and begin anew if that is more than values."""
        if self._computer is not None and self._signature == self._signed():
            return
        self.reopen(self._opened)

    def reopen(self, opened: Opened) -> None:
        """Begin anew, by somebody else perhaps.

        Args:
            opened: makes who computes.
        """
        if self._computer is not None:
            self._end()
        self._opened, self._since, self._signature = opened, self._number, None
        self.parts, payload = packed(self._targets)
        _check_modules(self.parts)
        self._computer = opened(self.parts, payload)
        self._end = weakref.finalize(self, self._computer.close)
        self._end.atexit = False  # the session ends its processes itself
        self._attributes = {place: copied(value) for place, value in self.parts.attributes().items()}
        self._globals = {place: copied(value) for place, value in self.parts.globals().items()}
        self._varied: set[Any] = set()
        self._signature = self._signed()

    def _signed(self) -> Any:
        """What must not change, or another copy of the targets is needed."""
        every = list(dict.fromkeys(part for module in self.parts.modules for part in module.modules()))
        held = [value for module in every for value in module._parameters.values()]
        parameters = [*held, *self.parts.parameters]
        return (
            [(id(module), len(_hooks(module))) for module in every],
            [(id(each), each.data_ptr(), each.dtype, each.shape) for each in parameters if each is not None],
            [(id(b), b.dtype, b.shape) for module in every for b in module._buffers.values() if b is not None],
            [name in vars(self.parts.every[number]) for number, name in self._attributes],
            self._others(),
        )

    def _others(self) -> dict[tuple[int, str], tuple[Same, Any]]:
        """All that does not travel with a call: which objects, and what they hold."""
        look = Look()
        return {place: (Same(value), look.at(value)) for place, value in self.parts.others()}

    def state(self) -> State:
        """What travels with a call."""
        attributes, values = self.parts.attributes(), self.parts.globals()
        for now, first in ((attributes, self._attributes), (values, self._globals)):
            self._varied |= {
                place for place, value in now.items() if place not in first or not is_same(first[place], value)
            }
        return State(
            self.parts.flags(),
            tuple(parameter.requires_grad for parameter in self.parts.parameters),
            {place: copied(value) for place, value in attributes.items() if place in self._varied},
            {place: copied(value) for place, value in values.items() if place in self._varied},
            Numerics.here(),
        )

    # -- acts ----------------------------------------------------------------------------------------------

    def forward(self, request: Request, leaves: Sequence[Sequence[Any]]) -> list[Answer]:
        """Compute microbatches.

        Args:
            request: the call.
            leaves: each microbatch's arguments.
        """
        assert self._computer is not None
        buffers = [module._buffers[name] for module, name in self.parts.buffers]
        answers = self._computer.forward(request, leaves, [buffer for buffer in buffers if buffer is not None])
        if self._computer.is_here(request):
            self._signature = self._signed()  # what libraries' objects have noted in this process is no change
        return answers

    def backward(
        self, request: Request, gradients: Sequence[Sequence[torch.Tensor | None]], keep: bool
    ) -> Gradients:  # fmt: skip
        """Compute backward passes.

        Args:
            request, gradients, keep: see `Computer`.

        Raises:
            UsageError: the model is not what it was at the call.
        """
        if request.number <= self._since:
            raise UsageError(
                "a model stays what it is between a parallel call and its backward pass; parameters, modules or "
                "objects that it refers to were replaced, or its workers' number was changed from or to 0. Do that "
                "after backward()."
            )
        assert self._computer is not None
        with TURN:
            return self._computer.backward(request, gradients, keep)

    def resize(self, workers: int) -> None:
        """Have another number of workers than there are; at least 1."""
        assert self._computer is not None
        self._computer.resize(workers)

    def after_backward(self) -> None:
        """A backward pass is through: once the script's has ended, somebody hears of it."""
        self._heard(self)

    def drop(self, call: int) -> None:
        """Nobody asks for a call's backward pass any more."""
        if call > self._since and self._computer is not None:
            self._computer.drop(call)

    def processes(self) -> list[int]:
        """Of workers."""
        assert self._computer is not None
        return self._computer.processes()


def _check_modules(parts: Parts) -> None:
    """Refuse modules that cannot be computed in parts."""
    targets = {id(target) for target in parts.targets}
    known = {id(parameter) for parameter in parts.parameters}
    for module in parts.every:
        name = type(module).__name__
        if isinstance(module, nn.SyncBatchNorm):
            raise UsageError(
                "a parallel call's microbatches know nothing of each other; received SyncBatchNorm, which needs the "
                "whole batch. Use BatchNorm (statistics of each microbatch, averaged), or GroupNorm."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(
                f"a parallel call needs modules of Python; received {name}, which is compiled by torch.jit. Pass the "
                "module before torch.jit.script."
            )
        if any(id(value) not in known for value in module._parameters.values() if value is not None):
            raise UsageError(
                f"a parallel call computes with the model's own parameters; those of {name} were replaced for a call "
                "(torch.func.functional_call). Put that into a function under @unisono.parallel."
            )
        if id(module) in targets and (hook := next(iter(computed(module).values()), None)):
            raise UsageError(
                "a weight that a hook computes before each forward pass belongs to a module inside the one that is "
                f"called; received {type(hook).__name__} on the {name} that was given to unisono.parallel. Put that "
                "into an nn.Sequential, or use torch.nn.utils.parametrizations."
            )
        foreign = [hook for hook in _hooks(module) if not str(getattr(hook, "__module__", "")).startswith(_HARMLESS)]
        if foreign and id(module) not in targets:
            raise UsageError(
                f"hooks of inner modules would run in other processes and be lost; received one on {name}. Put it on "
                "the module that is given to unisono.parallel, or return what it looks at."
            )


_HARMLESS = ("torch.", "transformers.modeling_utils")
"""Whose hooks leave nothing behind, and go to workers with their modules: the latter's have inputs want gradients."""


def _hooks(module: nn.Module) -> list[Any]:
    return [
        *module._forward_hooks.values(), *module._forward_pre_hooks.values(), *module._backward_hooks.values(),
        *module._backward_pre_hooks.values(),
    ]  # fmt: skip
