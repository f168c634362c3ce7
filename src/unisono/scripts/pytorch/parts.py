"""What a parallel call computes with, part by part in one order: in the script, and in each copy of it."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from unisono.errors import UsageError
from unisono.errors.traces import is_users_file
from unisono.scripts.plain import copied, is_plain
from unisono.scripts.pytorch.computed import computed
from unisono.scripts.pytorch.contents import is_own
from unisono.scripts.pytorch.wrapping import PLAIN

OF_TORCH = frozenset({*vars(nn.Module()), "call_super_init", "dump_patches", "forward"})
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
    computed: Sequence[frozenset[str]] = field(init=False)
    """Of each module the attributes that are computed anew by each forward pass."""

    def __post_init__(self) -> None:
        self.buffers = []
        self.every = list(dict.fromkeys(part for module in self.modules for part in module.modules()))
        self.computed = [frozenset(computed(module)) for module in self.every]
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
            if name not in OF_TORCH and is_plain(value) and name not in self.computed[number]
        }

    def globals(self) -> dict[tuple[int, str], Any]:
        """The plain globals, and variables of functions around, that the person's own functions read."""
        return {place: value for place, value in self.variables() if is_plain(value)}

    def others(self) -> Iterator[tuple[tuple[int, str], Any]]:
        """All attributes and globals that are not plain, classes, and what functions keep between their calls."""
        for number, module in enumerate(self.every):
            for name, value in module.__dict__.items():
                if name not in OF_TORCH and not is_plain(value) and name not in self.computed[number]:
                    yield (-1 - number, name), value
            yield (-1 - number, "its class"), type(module)
        for place, value in self.variables():
            if not is_plain(value):
                yield place, value
        for number, function in enumerate(self.functions):
            for name in ("__defaults__", "__kwdefaults__", "__dict__"):
                if value := getattr(function, name):
                    yield (number, f"its {name}"), value

    def variables(self) -> Iterator[tuple[tuple[int, str], Any]]:
        """The globals, and variables of functions around, that the person's own functions read."""
        for number, function in enumerate(self.functions):
            for name in _names_of(function.__code__):
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
        for (number, name), value in self.variables():
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
        for place, value in values.items():
            self.set_variable(place, copied(value))

    def set_variable(self, place: tuple[int, str], value: Any) -> None:
        """Give a function's global, or variable around it, a value."""
        self._set_global(*place, value)

    def _set_global(self, number: int, name: str, value: Any) -> None:
        function = self.functions[number]
        if name[0] != "(":
            function.__globals__[name] = value
        else:
            place = function.__code__.co_freevars.index(name[1:-1])
            (function.__closure__ or ())[place].cell_contents = value


def _put(module: nn.Module, name: str, parameter: Any) -> None:
    if isinstance(module, nn.RNNBase):
        setattr(module, name, parameter)  # it keeps a second list of them
    else:
        module._parameters[name] = parameter


@cache
def _names_of(code: CodeType) -> tuple[str, ...]:
    """The globals that a function names, also in functions and comprehensions inside it."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "STORE_GLOBAL")}
    inner = [_names_of(each) for each in code.co_consts if isinstance(each, CodeType)]
    return tuple(sorted(names.union(*inner)))


def functions_of(targets: Sequence[Any], every: Sequence[nn.Module]) -> list[FunctionType]:
    """The person's own functions that a call may run: what their globals hold travels.

    Args:
        targets: what is called.
        every: all modules.
    """
    found: dict[int, FunctionType] = {}
    waiting = [*targets, *dict.fromkeys(kind for module in every for kind in type(module).__mro__)]
    attributes = [value for module in every for name, value in vars(module).items() if name not in OF_TORCH]
    waiting += [found for value in attributes for found in _with_code(value)]
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
            held = [value.__globals__[name] for name in _names_of(value.__code__) if name in value.__globals__]
            held += [_content(cell) for cell in value.__closure__ or ()]
            waiting += [found for each in held for found in _with_code(each)]
        elif isinstance(value, ModuleType) and is_own(value.__name__):
            waiting += [each for each in vars(value).values() if _has_code(each)]
        elif isinstance(value, type) and is_own(value.__module__):
            for each in value.__mro__:
                waiting += [getattr(part, "__func__", part) for part in vars(each).values() if _has_code(part)]
                waiting += [part.fget for part in vars(each).values() if isinstance(part, property) and part.fget]
    return list(found.values())


def _with_code(value: Any) -> list[Any]:
    """What may be run of a value: it, or what it holds, or its class."""
    if isinstance(value, (list, tuple, dict)):
        return [each for each in (value.values() if isinstance(value, dict) else value) if _has_code(each)]
    if isinstance(value, partial):
        return [value.func]
    return [value if _has_code(value) else type(value)]


def _has_code(value: Any) -> bool:
    return isinstance(value, (FunctionType, MethodType, staticmethod, classmethod, type, ModuleType))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
