"""Recording a forward pass while it runs: which operations, on what, in which module."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unisono.frameworks.nests import leaves, mapped
from unisono.frameworks.protocol import Array
from unisono.frameworks.pytorch.stages import generators
from unisono.frameworks.pytorch.stages.boundaries import barred_by_use, barred_by_writes
from unisono.frameworks.pytorch.stages.operations import Operation, ReadsValueError, Recording, place
from unisono.frameworks.pytorch.stages.uses import Uses
from unisono.frameworks.pytorch.stages.values import Values

CONTAINERS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict,
    nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
)  # fmt: skip
READS = frozenset(
    {"item", "__bool__", "__int__", "__float__", "__index__", "__complex__", "tolist", "numpy", "__array__", "equal",
     "allclose", "__contains__", "is_nonzero", "data_ptr"}
)  # fmt: skip
READS_SHAPE = frozenset({"size", "shape", "numel", "nelement", "__len__"})
SHAPED_BY_VALUES = frozenset(
    {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "repeat_interleave",
     "_pack_padded_sequence"}
)  # fmt: skip


class Recorder(TorchFunctionMode):
    """Records what runs inside it.

    Args:
        model: the model.
        uses: its parameters and buffers.
        opaque: scopes of modules that are one operation each.
        inputs: the microbatch's.
    """

    def __init__(self, model: nn.Module, uses: Uses, opaque: set[str], inputs: Any) -> None:
        super().__init__()
        self._uses, self._opaque = uses, opaque
        self._paths = {id(module): name for name, module in model.named_modules()}
        self._values = Values(inputs)
        self._operations: list[Operation] = []
        self._scopes = [""]
        self._inside: Operation | None = None
        self._own = False
        self._states: tuple[Array, ...] = ()
        self._autocast = torch.is_autocast_enabled("cpu")

    def record(self, forward: Callable[[], Any], cached_casts: bool) -> Recording:
        """Run a forward pass and return its recording.

        Args:
            forward: the pass.
            cached_casts: see `barred_by_use`.

        Raises:
            ReadsValueError: it reads a value.
        """
        self._states = generators.save()
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return self._module(original, module, args, kwargs)

        nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            with self:
                outputs = forward()
            self._check_generators()
            outputs = mapped(self._reference, outputs)
        finally:
            nn.Module.__call__ = original  # type: ignore[method-assign]
        values, written = self._values, self._uses.written
        operations, moved_to, outputs = values.settled(self._operations, outputs)
        barred = barred_by_writes(operations, moved_to, values.created, values.written)
        barred |= barred_by_use(operations, written, cached_casts)
        return Recording(operations, outputs, values.facts(), barred, frozenset(written))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._own:
            return func(*args, **(kwargs or {}))
        if self._inside is not None:
            self._uses.note(self._inside, (args, kwargs))
            return func(*args, **(kwargs or {}))
        return self._operation(func, args, kwargs or {}, _name(func), self._scopes[-1])

    def _module(self, original: Any, module: nn.Module, args: Any, kwargs: Any) -> Any:
        path = self._paths.get(id(module), self._scopes[-1])
        if self._inside is not None:
            return original(module, *args, **kwargs)
        if path in self._opaque or (type(module).__module__.startswith("torch.nn.") and type(module) not in CONTAINERS):
            name, whole = type(module).__name__, path in self._opaque
            hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
            if hooked or module._backward_pre_hooks:
                return self._operation(partial(original, module), args, kwargs, name, path, whole, module)
            if type(module) is nn.Linear:  # spares looking the parameters up
                return self._operation(F.linear, (*args, module.weight, module.bias), kwargs, name, path)
            return self._operation(module.forward, args, kwargs, name, path, whole, module)
        self._scopes.append(path)
        try:
            return original(module, *args, **kwargs)
        finally:
            self._scopes.pop()

    def _operation(self, *what: Any) -> Any:
        """Run and record one operation; what this does itself is not recorded."""
        self._own = True
        try:
            return self._recorded(*what)
        finally:
            self._own = False

    def _recorded(
        self, call: Any, args: Any, kwargs: Any, name: str, scope: str, opaque: bool = False,
        module: nn.Module | None = None,
    ) -> Any:  # fmt: skip
        self._check_generators()
        operation = Operation(call, None, None, [], name, scope, place())
        if module is not None:
            self._uses.note(operation, list(module.parameters()))
        self._uses.note(operation, (args, kwargs))
        operation.args, operation.kwargs = mapped(self._reference, args), mapped(self._reference, kwargs)
        given = [t for _, t in leaves((args, kwargs)) if isinstance(t, Tensor)]
        versions = [tensor._version for tensor in given]
        self._inside, self._own = operation, False
        try:
            result = call(*args, **kwargs)
        finally:
            self._inside, self._own = None, True
        self._values.keep((args, kwargs, result))
        after = generators.save()
        operation.draws, self._states = generators.moved(self._states, after), after
        written = [t for t, version in zip(given, versions, strict=True) if t._version != version]
        written += self._uses.changed_buffers(operation.buffers)
        made = [(path, t) for path, t in leaves(result) if isinstance(t, Tensor)]
        constant = not (operation.parameters or operation.draws or opaque) and all(
            self._values.is_constant(tensor) and not self._uses.is_parameter(tensor) for tensor in given
        )
        shaped = any(map(self._values.is_shaped, given))
        if opaque and any(not isinstance(leaf, Tensor | None) for _, leaf in leaves(result)):
            raise ReadsValueError(scope.rpartition(".")[0] if scope else "", f"{name} returns a value", operation.place)
        if not made and not written:
            if not constant and (name in READS or (shaped and name in READS_SHAPE)):
                raise ReadsValueError(scope, name, operation.place)
            return result
        operation.call = self._in_same_mode(call)
        new = [(path, tensor) for path, tensor in made if not self._uses.holds(tensor)]
        shaped = shaped or _shapes_by_values(name, given)
        self._values.enter(len(self._operations), operation, new, written, constant, shaped)
        self._operations.append(operation)
        return result

    def _reference(self, leaf: Any) -> Any:
        if (buffer := self._uses.place_of(leaf)) is not None:
            return buffer
        if not isinstance(leaf, Tensor) or self._uses.is_parameter(leaf):
            return leaf
        found = self._values.place_of(leaf)
        if found is None and leaf.grad_fn is not None:
            raise ReadsValueError(self._scopes[-1], "an operation that PyTorch does not let others see", place())
        return leaf if found is None else found

    def _in_same_mode(self, call: Any) -> Any:
        if not torch.is_grad_enabled():
            call = torch.no_grad()(call)
        if torch.is_autocast_enabled("cpu") != self._autocast:
            call = torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu"), dtype=torch.bfloat16)(call)
        return call

    def _check_generators(self) -> None:
        others = generators.save(("python", "numpy"))
        if generators.moved(self._states, (self._states[0], *others)):
            raise ReadsValueError(self._scopes[-1], "a random number of Python or NumPy", place())


def _name(function: Any) -> str:
    name = str(getattr(function, "__name__", function))
    return str(getattr(function.__self__, "__name__", name)) if name == "__get__" else name


def _shapes_by_values(name: str, given: list[Tensor]) -> bool:
    if name in SHAPED_BY_VALUES:
        return True
    return name == "__getitem__" and any(t.dtype in (torch.bool, torch.uint8) for t in given[1:])
