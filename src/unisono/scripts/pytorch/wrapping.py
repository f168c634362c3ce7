"""A module whose calls somebody else computes: it stays the object that it is, and only its class is another."""

from __future__ import annotations

import copyreg
import functools
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from unisono.errors import UsageError
from unisono.scripts.pytorch.session import is_of_another_process

MARK = "_unisono_calls"
"""The name under which a class that was swapped in has what computes."""

INSIDE: ContextVar[bool] = ContextVar("inside a parallel call", default=False)
"""Whether a microbatch is being computed: what is called then computes by itself."""


PLAIN = "_unisono_plain"
"""The name under which a parallel function has the one that a person wrote."""


def computes_alone() -> bool:
    """Whether calls are computed as if nothing were parallel: inside of one, in forks of the script, and where PyTorch
    writes down what a model does."""
    is_written_down = torch._C._is_tracing() or torch.compiler.is_exporting()
    return INSIDE.get() or is_of_another_process() or is_written_down


def as_written(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call into which torch.compile does not look."""
    if "torch._dynamo" not in sys.modules:
        return call
    plain: Callable[..., Any] = torch.compiler.disable(call)  # type: ignore[no-untyped-call]
    return plain


def handle_of(module: Any) -> Any:
    """What computes a module's calls; None where it computes them itself."""
    found = getattr(type(module), MARK, None)
    return found[1] if found is not None and found[0] is module else None


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a person gave a module."""
    kind = type(module)
    return kind.__bases__[0] if MARK in vars(kind) else kind


def swap(module: nn.Module, handle: Any, call: Callable[[tuple[Any, ...], dict[str, Any]], Any]) -> None:
    """Have a module's calls computed by somebody else; copies of it compute by themselves.

    Args:
        module: the module.
        handle: what `handle_of` gives; its `resize` becomes the module's where that has none.
        call: takes arguments.

    Raises:
        UsageError: it has a forward of its own beside its class's.
    """
    if "forward" in module.__dict__:
        raise UsageError(
            f"a parallel module is called by its class's forward; received a {type(module).__name__} whose forward "
            "was replaced on the object. Call unisono.parallel before what replaced it (accelerate.prepare, say)."
        )
    plain = plain_class(module)

    @functools.wraps(plain.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self is not module or computes_alone():
            return plain.forward(self, *args, **kwargs)
        return as_written(call)(args, kwargs)

    def reduced(self: nn.Module, protocol: Any) -> Any:
        make, arguments, *rest = tuple(plain.__reduce_ex__(self, protocol))
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            make = plain.__new__  # pickle lets that one make the object's own class only
        return make, tuple(plain if each is type(self) else each for each in arguments), *rest

    members = {
        "forward": forward, "__reduce_ex__": reduced, MARK: (module, handle), "__module__": plain.__module__,
        "__qualname__": plain.__qualname__, "__doc__": plain.__doc__,
    }  # fmt: skip
    if not hasattr(plain, "resize"):
        members["resize"] = lambda self, workers: handle.resize(workers)
    module.__class__ = type(plain.__name__, (plain,), members)
