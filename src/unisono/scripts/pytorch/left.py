"""What a microbatch's forward pass leaves behind: it is lost, or another in each process, so it is refused."""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Iterator, Sequence
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_leaves

from unisono.errors import UsageError
from unisono.frameworks.unchanged import Samples
from unisono.scripts.plain import copied, is_plain
from unisono.scripts.pytorch.contents import Look, Same, is_fixed, is_same
from unisono.scripts.pytorch.nests import flat
from unisono.scripts.pytorch.parts import OF_TORCH, Parts

_MISSING: Any = object()

Made = dict[tuple[Any, Hashable], Any]
"""What passes have made anew, by the shapes of their inputs: a mask, say, which each makes for itself."""


class Names:
    """What the names of modules and functions mean.

    Args:
        parts: the targets.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._bound = [dict(vars(module)) for module in parts.every]
        self._variables = dict(parts.variables())

    def restore(self) -> None:
        """Every name means again what it meant."""
        for module, bound in zip(self._parts.every, self._bound, strict=True):
            held = vars(module)
            if len(held) == len(bound) and all(map(is_, held.values(), bound.values())):
                continue
            for name in [name for name in held if name not in bound]:
                del held[name]
            held.update(bound)
        for place, value in self._parts.variables():
            if value is not self._variables.get(place, _MISSING):
                self._parts.set_variable(place, self._variables.get(place))

    def rebound(self) -> Iterator[tuple[tuple[int, str], Any, Any]]:
        """The names that mean another object than before: where, that before, that now."""
        for number, (module, bound) in enumerate(zip(self._parts.every, self._bound, strict=True)):
            held = vars(module)
            if len(held) == len(bound) and all(map(is_, held.values(), bound.values())):
                continue
            for name in {**bound, **held}:
                before, now = bound.get(name, _MISSING), held.get(name, _MISSING)
                if before is not now and name not in OF_TORCH | self._parts.computed[number]:
                    yield (-1 - number, name), before, now
        for place, now in self._parts.variables():
            before = self._variables.get(place, _MISSING)
            if before is not now:
                yield place, before, now


class Before:
    """The targets before a call's microbatches.

    Args:
        parts: them.
        parameters: the ones with which they compute.
    """

    def __init__(self, parts: Parts, parameters: Sequence[torch.Tensor]) -> None:
        self._parts, self._parameters = parts, parameters
        self.names = Names(parts)
        attributes = [((-1 - number, name), value) for (number, name), value in parts.attributes().items()]
        plain = [*attributes, *parts.globals().items()]
        self._plain = [(place, value, copied(value)) for place, value in plain if not is_fixed(value)]
        look = Look(into_libraries=False)
        marked = [(place, value, look.at(value)) for place, value in parts.others()]
        self._inside = [each for each in marked if not isinstance(each[2], Same)]
        self._members = list(map(_members, parts.every))
        self._samples = Samples([_bytes_of(each) for each in parameters])
        self._values = self._parameters_now()

    def check(self, given: Hashable, made: Made) -> None:
        """Refuse what would be lost with this copy, or be another in each.

        Args:
            given: the shapes of the pass's inputs.
            made: what passes before have made; gets what this one has.

        Raises:
            UsageError: something was left.
        """
        if self._values != self._parameters_now():
            raise UsageError(
                "parameters stay as they are in a parallel call, for all workers share them; its forward pass changed "
                "one (max_norm=, in place, .data). Compute with what it becomes (F.normalize), or change it between "
                "calls."
            )
        for module, members in zip(self._parts.every, self._members, strict=True):
            if _members(module) != members:
                raise UsageError(_left(f"a module, parameter or buffer of {type(module).__name__}"))
        for place, before, now in self.names.rebound():
            self._judge(place, before, now, given, made)
        for place, value, copy in self._plain:
            if not is_same(value, copy):
                raise UsageError(_left(self._name(place)))
        look = Look(into_libraries=False)
        for place, value, mark in self._inside:
            if look.at(value) != mark:
                raise UsageError(_left(self._name(place)))

    def _judge(self, place: tuple[int, str], before: Any, now: Any, given: Hashable, made: Made) -> None:
        """A name means another object than before."""
        if is_plain(now):
            if before is _MISSING or not is_same(before, now):
                raise UsageError(_left(self._name(place)))
            return
        if any(isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None for leaf in tree_leaves(now)):
            raise UsageError(_left(self._name(place)))
        look = Look()
        mark = look.at(now)
        if mark != look.at(before) and mark != made.setdefault((place, given), mark):
            raise UsageError(_left(self._name(place)))

    def _name(self, place: tuple[int, str]) -> str:
        number, name = place
        if number < 0:
            return f"{type(self._parts.every[-1 - number]).__name__}.{name}"
        function = self._parts.functions[number].__name__
        return f"{function}: {name}" if name.startswith("its ") else f"the variable {name.strip('()')}"

    def _parameters_now(self) -> tuple[list[tuple[int, int]], list[bytes]]:
        return [(each._version, each.data_ptr()) for each in self._parameters], self._samples.read()


class Arguments:
    """The arguments of a microbatch.

    Args:
        leaves, spec: them.
        args, kwargs: as the target gets them.
    """

    def __init__(self, leaves: Sequence[Any], spec: TreeSpec, args: Any, kwargs: Any) -> None:
        self._leaves, self._spec, self._given = leaves, spec, (args, kwargs)
        self._now = self._marks()

    def _marks(self) -> list[Any]:
        look = Look()
        return [leaf._version if isinstance(leaf, torch.Tensor) else look.at(leaf) for leaf in self._leaves]

    def shapes(self) -> Hashable:
        """All but their values."""
        return tuple(
            (leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else type(leaf) for leaf in self._leaves
        )

    def check(self) -> None:
        """Refuse arguments that were changed.

        Raises:
            UsageError: one was.
        """
        leaves, spec = flat(self._given)
        is_same_nest = spec == self._spec and all(map(lambda one, other: one is other, leaves, self._leaves))
        if not is_same_nest or self._marks() != self._now:
            raise UsageError(
                "a parallel call leaves its arguments as they are, for its microbatches have copies; received one that "
                "changes them in place. Give it x.clone() or a copy of the dictionary inside the call, and return "
                "what the script needs."
            )


def _members(module: nn.Module) -> list[tuple[str, int]]:
    kept = [*module._parameters.items(), *module._modules.items()]
    return [(name, id(value)) for name, value in kept] + [(name, 0) for name in module._buffers]


def _bytes_of(parameter: torch.Tensor) -> Any:
    size: Any = parameter.untyped_storage().nbytes() - parameter.storage_offset() * parameter.element_size()
    size = min(size, parameter.numel() * parameter.element_size())
    if not size or parameter.device.type != "cpu":
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(parameter.data_ptr()))


def _left(what: str) -> str:
    return (
        f"a parallel call leaves nothing behind but buffers: what it sets on a module or a variable is lost with the "
        f"microbatch; it set {what}. Return it, keep it in a buffer, or set it outside the call."
    )
