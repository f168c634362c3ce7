"""What a parallel call computes with, part by part in one order: in the script, and in each copy of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from unisono.errors import UsageError
from unisono.errors.traces import is_users_file
from unisono.scripts.plain import copied, is_plain
from unisono.scripts.pytorch.wrapping import PLAIN

_OF_TORCH = frozenset({*vars(nn.Module()), "call_super_init", "dump_patches", "forward"})
"""Attributes that are no state of a person's."""


@dataclass
class Parts:
    """Targets and what they refer to.

    Attributes:
        targets: what is called: modules, or functions over modules.
        modules: the outermost modules among them and in what they refer to.
        parameters: all of them, also those that functions hold without a module.
        functions: the person's own, whose globals may change.
    """

    targets: Sequence[Any]
    modules: Sequence[nn.Module]
    parameters: Sequence[torch.Tensor]
    functions: Sequence[FunctionType]
    every: Sequence[nn.Module] = field(init=False)
    buffers: Sequence[tuple[nn.Module, str]] = field(init=False)

    def __post_init__(self) -> None:
        self.buffers = []
        self.every = list(dict.fromkeys(part for module in self.modules for part in module.modules()))
        seen: set[int] = set()
        for module in self.every:
            for name, buffer in module._buffers.items():
                if buffer is not None and id(buffer) not in seen:
                    seen.add(id(buffer))
                    self.buffers.append((module, name))

    def used_by(self, target: int) -> list[int]:
        """The parameters that a call of a target may use."""
        called = self.targets[target]
        if not isinstance(called, nn.Module):
            return list(range(len(self.parameters)))
        its = {id(parameter) for parameter in called.parameters()}
        return [number for number, parameter in enumerate(self.parameters) if id(parameter) in its]

    # -- what may change between calls ---------------------------------------------------------------------

    def flags(self) -> tuple[bool, ...]:
        """Who trains."""
        return tuple(module.training for module in self.every)

    def attributes(self) -> dict[tuple[int, str], Any]:
        """The modules' plain attributes."""
        return {
            (number, name): value
            for number, module in enumerate(self.every)
            for name, value in module.__dict__.items()
            if name not in _OF_TORCH and is_plain(value)
        }

    def globals(self) -> dict[tuple[int, str], Any]:
        """The plain globals, and variables of functions around, that the person's own functions read."""
        return {place: value for place, value in self._read() if is_plain(value)}

    def others(self) -> dict[tuple[int, str], tuple[_Same, int]]:
        """All attributes and globals that are not plain, as what they are and the version of tensors."""
        held = [
            ((-1 - number, name), value)
            for number, module in enumerate(self.every)
            for name, value in module.__dict__.items()
            if name not in _OF_TORCH
        ]
        return {
            place: (_Same(value), _version(value)) for place, value in [*held, *self._read()] if not is_plain(value)
        }

    def _read(self) -> Iterator[tuple[tuple[int, str], Any]]:
        for number, function in enumerate(self.functions):
            for name in function.__code__.co_names:
                if name in function.__globals__:
                    yield (number, name), function.__globals__[name]
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
                try:
                    yield (number, f"({name})"), cell.cell_contents
                except ValueError:  # not assigned yet
                    continue

    def places(self) -> list[tuple[int, Callable[[torch.Tensor], None]]]:
        """Where parameters are found by who computes: the number of each, and what puts another one there.

        Raises:
            UsageError: one is nowhere where another could be put.
        """
        numbers = {id(parameter): number for number, parameter in enumerate(self.parameters)}
        found: list[tuple[int, Callable[[torch.Tensor], None]]] = []
        for module in self.every:
            for name, value in module._parameters.items():
                if value is not None:
                    found.append((numbers[id(value)], partial(_put, module, name)))
        for (number, name), value in self._read():
            if id(value) in numbers:
                found.append((numbers[id(value)], partial(self._set_global, number, name)))
        for number in {*range(len(self.parameters))} - {number for number, _ in found}:
            raise UsageError(
                f"parameters of a parallel call belong to modules, or are variables that its function names; received "
                f"one of shape {tuple(self.parameters[number].shape)} inside another object. Register it: "
                "nn.Parameter as an attribute, nn.ParameterList instead of a list."
            )
        return found

    # -- in a copy -----------------------------------------------------------------------------------------

    def set_attributes(self, attributes: dict[tuple[int, str], Any]) -> None:
        """Give the modules attributes of the script's."""
        for (number, name), value in attributes.items():
            self.every[number].__dict__[name] = copied(value)

    def set_globals(self, values: dict[tuple[int, str], Any]) -> None:
        """Give the functions globals of the script's."""
        for (number, name), value in values.items():
            self._set_global(number, name, copied(value))

    def _set_global(self, number: int, name: str, value: Any) -> None:
        function = self.functions[number]
        if name[0] != "(":
            function.__globals__[name] = value
        else:
            place = function.__code__.co_freevars.index(name[1:-1])
            (function.__closure__ or ())[place].cell_contents = value


def differing(now: dict[Any, Any], before: dict[Any, Any]) -> dict[Any, Any]:
    """What has another value now, with the one of before.

    >>> differing({"a": 1, "b": 2}, {"a": 1, "b": 3})
    {'b': 3}
    """
    return {place: value for place, value in before.items() if place not in now or now[place] != value}


def _put(module: nn.Module, name: str, parameter: Any) -> None:
    if isinstance(module, nn.RNNBase):
        setattr(module, name, parameter)  # it keeps a second list of them
    else:
        module._parameters[name] = parameter


@dataclass(frozen=True, eq=False)
class _Same:
    """An object that is equal to itself alone."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    __hash__ = None  # type: ignore[assignment]


def _version(value: Any) -> int:
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0


def functions_of(targets: Sequence[Any], every: Sequence[nn.Module]) -> list[FunctionType]:
    """The person's own functions that a call may run: what their globals hold travels.

    Args:
        targets: what is called.
        every: all modules.
    """
    found: dict[int, FunctionType] = {}
    waiting = [*targets, *dict.fromkeys(type(module) for module in every)]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, MethodType):
            value = value.__func__
        value = vars(value).get(PLAIN, value) if isinstance(value, FunctionType) else value
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, FunctionType):
            if not is_users_file(value.__code__.co_filename):
                continue
            found[id(value)] = value
            waiting += [
                value.__globals__[name] for name in value.__code__.co_names if _has_code(value.__globals__.get(name))
            ]
            cells = [_content(cell) for cell in value.__closure__ or ()]
            waiting += [cell for cell in cells if _has_code(cell)]
        elif isinstance(value, type):
            for each in value.__mro__:
                waiting += [getattr(part, "__func__", part) for part in vars(each).values() if _has_code(part)]
                waiting += [part.fget for part in vars(each).values() if isinstance(part, property) and part.fget]
    return list(found.values())


def _has_code(value: Any) -> bool:
    return isinstance(value, (FunctionType, MethodType, staticmethod, classmethod)) or (
        isinstance(value, type) and value.__module__ != "builtins" and not value.__module__.startswith("torch.")
    )


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
