"""Targets as they travel to a copy: all but the bytes of their parameters, which are shared."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import cloudpickle
import torch
from torch import nn
from torch.nn.utils import parametrize

from unisono.errors import UsageError
from unisono.scripts.pytorch.computed import computed, without_graphs
from unisono.scripts.pytorch.devices import check_known
from unisono.scripts.pytorch.messages import by_value
from unisono.scripts.pytorch.parametrized import reduced
from unisono.scripts.pytorch.parts import Parts, functions_of
from unisono.scripts.pytorch.wrapping import PLAIN


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """Leaves out parameters, and notes them and the modules that it meets."""

    def __init__(self, file: Any, targets: Sequence[Any] = ()) -> None:
        super().__init__(file, 5)
        self._targets = {id(target) for target in targets if isinstance(target, nn.Module)}
        self.parameters: list[torch.Tensor] = []
        self.modules: list[nn.Module] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        """See `pickle.Pickler`."""
        if isinstance(value, nn.Module):
            self.modules.append(value)
        if not isinstance(value, torch.Tensor) or not (isinstance(value, nn.Parameter) or value.requires_grad):
            return None
        _check(value)
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.parameters)
            self.parameters.append(value)
        return self._numbers[id(value)]

    def reducer_override(self, value: Any) -> Any:
        """See `pickle.Pickler`: a target's hooks, and a forward put around its own, stay in the script."""
        if isinstance(value, FunctionType) and PLAIN in vars(value):
            return _itself, (vars(value)[PLAIN],)
        if not isinstance(value, nn.Module):
            return super().reducer_override(value)
        is_target, is_parametrized = id(value) in self._targets, parametrize.is_parametrized(value)
        if not (is_target or is_parametrized or computed(value)):
            return super().reducer_override(value)
        found: Any = reduced(value) if is_parametrized else value.__reduce_ex__(5)
        make, arguments, state, *rest = found
        if isinstance(state, dict):
            state = without_graphs(value, state)
        if isinstance(state, dict) and is_target:
            state = {
                name: OrderedDict() if name in _HOOKS else kept for name, kept in state.items() if name != "forward"
            }
        return make, arguments, state, *rest


def _itself(value: Any) -> Any:
    return value


_HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks"))


def _check(parameter: torch.Tensor) -> None:
    if not parameter.is_leaf:
        raise UsageError(
            f"a tensor that a parallel call refers to must be a parameter or a constant; received one of shape "
            f"{tuple(parameter.shape)} that was computed from others. Pass it as an argument, or detach() it."
        )
    check_known(parameter.device)
    if parameter.layout is not torch.strided:
        raise UsageError(
            f"parallel calls compute with dense parameters; received one that is {parameter.layout}. Leave out "
            "unisono.parallel."
        )


@dataclass(frozen=True)
class Like:
    """A parameter without its values."""

    kind: type
    requires_grad: bool
    attributes: dict[str, Any]

    @staticmethod
    def of(parameter: torch.Tensor) -> Like:
        """A parameter of the script's."""
        return Like(type(parameter), parameter.requires_grad, dict(parameter.__dict__))

    def over(self, values: torch.Tensor) -> torch.Tensor:
        """The same, with values that lie elsewhere."""
        made: torch.Tensor = torch.Tensor._make_subclass(self.kind, values, self.requires_grad)
        made.__dict__.update(self.attributes)
        return made


def packed(targets: Sequence[Any]) -> tuple[Parts, bytes]:
    """Targets as they are in this process, and as they travel.

    Args:
        targets: modules, and functions over modules.

    Raises:
        UsageError: something in them cannot travel.
    """
    try:
        with by_value():
            first = _Packer(io.BytesIO(), targets)
            first.dump(list(targets))
            modules = _outermost(first.modules)
            functions = functions_of(targets, [part for module in modules for part in module.modules()])
            file = io.BytesIO()
            packer = _Packer(file, targets)
            packer.dump((list(targets), modules, functions))
            parts = Parts(list(targets), modules, packer.parameters, functions)
            likes = cloudpickle.dumps([Like.of(parameter) for parameter in packer.parameters])
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            "what is called in parallel travels to other processes, so all that it refers to must be picklable; "
            f"received {_culprit(targets)}: {error}. Keep files, locks, loggers and connections outside the model, or "
            "make them inside the function that uses them."
        ) from error
    return parts, pickle.dumps((likes, file.getvalue()))


def opened(payload: bytes, values: Sequence[torch.Tensor]) -> Parts:
    """Targets that have travelled.

    Args:
        payload: see `packed`; from this process's own script only.
        values: what the parameters' values lie in.
    """
    likes, body = pickle.loads(payload)
    parameters = [like.over(value) for like, value in zip(pickle.loads(likes), values, strict=True)]

    class Opener(pickle.Unpickler):
        def persistent_load(self, number: Any) -> torch.Tensor:
            found: torch.Tensor = parameters[number]
            return found

    targets, modules, functions = Opener(io.BytesIO(body)).load()
    return Parts(targets, modules, parameters, functions)


def _outermost(modules: Sequence[nn.Module]) -> list[nn.Module]:
    inner = {id(part) for module in modules for part in list(module.modules())[1:]}
    return list(dict.fromkeys(module for module in modules if id(module) not in inner))


def _culprit(targets: Sequence[Any]) -> str:
    """What cannot be pickled, by the name under which a module or a function has it."""
    for target in targets:
        if not isinstance(target, nn.Module):
            continue
        for path, module in target.named_modules():
            for name, value in vars(module).items():
                if name != "_modules" and not _travels(value):
                    return f"{type(target).__name__}.{f'{path}.' if path else ''}{name} (a {type(value).__name__})"
    return "something that is not"


def _travels(value: Any) -> bool:
    try:
        _Packer(io.BytesIO()).dump(value)
    except Exception:
        return False
    return True
