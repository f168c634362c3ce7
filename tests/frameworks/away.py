"""A device of the test's own, "away": tensors as a GPU's are for whoever holds them, with the CPU's bits.

NumPy cannot read them, they bear no operand of the CPU (but numbers), and whatever is fetched from them is counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

from unisono import Job

aten = torch.ops.aten
FETCHING = {aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default}
"""Operations whose answer the host waits for."""

fetched: list[str] = []
"""What was fetched, in order; tests clear it."""

generator = torch.Generator()
"""The device's own, which nothing seeds but `manual_seed` of its module."""


class Module:
    """What torch asks of a device's module."""

    @staticmethod
    def device_count() -> int:
        """There is one."""
        return 1

    @staticmethod
    def current_device() -> int:
        """It is the one."""
        return 0

    @staticmethod
    def is_available() -> bool:
        """It is there."""
        return True

    is_initialized = is_available

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    def manual_seed(self, seed: int) -> None:
        """Seed what is drawn there."""
        generator.manual_seed(seed)

    manual_seed_all = manual_seed

    @staticmethod
    def synchronize(*_: Any) -> None:
        """All is done at once."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        """What autocast may use."""
        return [torch.bfloat16, torch.float32]


class Away(Tensor):
    """A tensor there, whose values lie in `held`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Away:
        """Wrap a tensor of the CPU."""
        made: Away = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=torch.device("away", 0), requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Away({self.held})"

    @property  # type: ignore[misc]
    def data(self) -> Tensor:  # type: ignore[override]
        """The same memory."""
        return Away(self.held)

    @data.setter
    def data(self, other: Away) -> None:
        """Lie over another's memory."""
        self.held = other.held

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute with what is held, by the CPU's own operation."""
        kwargs = dict(kwargs or {})
        if operation is aten._to_copy.default and torch.device(kwargs.get("device") or "away").type == "cpu":
            return _fetched(operation, args[0].held, {**kwargs, "device": "cpu"})
        if operation is aten.copy_.default:
            return _copied(*args)
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(not isinstance(leaf, Away) and leaf.dim() for leaf in given):
            raise RuntimeError(f"Expected all tensors to be on the same device: {operation}")
        if operation in FETCHING:
            fetched.append(str(operation))
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        with _drawn():
            args, kwargs = pytree.tree_map_only(Away, lambda leaf: leaf.held, (args, kwargs))
            found = operation(*args, **kwargs)
        return _wrapped(found, given)


def _fetched(operation: Any, held: Tensor, kwargs: Any) -> Tensor:
    fetched.append(str(operation))
    moved: Tensor = operation(held, **{**kwargs, "non_blocking": False})
    return moved.clone()


def _copied(into: Tensor, source: Tensor, *_: Any) -> Tensor:
    if not isinstance(into, Away):
        assert isinstance(source, Away)
        fetched.append("copy_")
        into.copy_(source.held)
    else:
        into.held.copy_(source.held if isinstance(source, Away) else source)
    return into


@contextlib.contextmanager
def _drawn() -> Iterator[None]:
    """The CPU's operations draw from this device's generator instead of the CPU's own."""
    before = torch.default_generator.get_state()
    torch.default_generator.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.default_generator.get_state())
        torch.default_generator.set_state(before)


def _wrapped(found: Any, given: Sequence[Tensor]) -> Any:
    """The answer there; an operation that writes gives back the tensor that it has written into."""
    owners = {id(tensor.held): tensor for tensor in given if isinstance(tensor, Away)}
    return pytree.tree_map_only(Tensor, lambda leaf: owners[id(leaf)] if id(leaf) in owners else Away(leaf), found)


def install() -> None:
    """Make the device known to torch, in this process and until its end."""
    backend_registration._setup_privateuseone_for_python_backend("away", Module())
    torch.__future__.set_swap_module_params_on_conversion(True)  # a Parameter stays the object that it is
    library = torch.library.Library("aten", "IMPL")
    _libraries.append(library)
    for name in ("empty.memory_format", "empty_strided"):
        operation = getattr(aten, name.split(".")[0])
        overload = getattr(operation, "memory_format" if "." in name else "default")

        def make(*args: Any, made_by: Any = overload, **kwargs: Any) -> Away:
            return Away(made_by(*args, **{**kwargs, "device": torch.device("cpu"), "pin_memory": None}))

        library.impl(name, make, "PrivateUse1")
    library.impl(
        "_copy_from", lambda source, into, *_: _copied(into, source), "PrivateUse1"
    )  # torch.tensor(…, device=)


def there(job: Job) -> Job:
    """A change of a job (see `Request.change`) whose processes know the device."""
    if not _libraries:
        install()
    return job


_libraries: list[Any] = []
"""What is registered lasts as long as the library is held."""
