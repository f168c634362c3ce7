"""Recording a forward pass while it runs: which operations, on what, in which module."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unisono.errors import UsageError
from unisono.frameworks.protocol import Array
from unisono.frameworks.pytorch.stages import generators
from unisono.frameworks.pytorch.stages.operations import BufferPlace, InputLeaf, Operation, Recording, Slot, SlotFacts
from unisono.frameworks.pytorch.stages.trees import leaves, mapped

CONTAINERS = (
    torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict,
    torch.nn.Transformer, torch.nn.TransformerEncoder, torch.nn.TransformerDecoder,
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


NOT_CAST = frozenset(
    {"Embedding", "embedding", "EmbeddingBag", "embedding_bag", "t", "T", "mT", "transpose", "permute", "view",
     "reshape", "__getitem__"}
)  # fmt: skip
"""What takes a parameter as it is under autocast."""


class ReadsValueError(Exception):
    """The model reads a value while it computes, so a recording of it holds for this microbatch only.

    Args:
        scope: the module in which it does so ("" for the model itself).
        what: the operation.
        place: its file and line.
    """

    def __init__(self, scope: str, what: str, place: str) -> None:
        super().__init__(what)
        self.scope, self.what, self.place = scope, what, place


class Recorder(TorchFunctionMode):
    """Records what runs inside it.

    Args:
        model: the model.
        numbers: parameter numbers by identity.
        buffers: the model's buffers, by index.
        opaque: scopes of modules that are one operation each.
        inputs: the microbatch's.
        cached_casts: autocast casts a parameter once for all its uses.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        numbers: dict[int, int],
        buffers: list[BufferPlace],
        opaque: set[str],
        inputs: Any,
        cached_casts: bool,
    ) -> None:
        super().__init__()
        self._numbers, self._opaque, self._cached_casts = numbers, opaque, cached_casts
        self._paths = {id(module): name for name, module in model.named_modules()}
        self._places = buffers
        self._known = {i: place.tensor.clone() for i, place in enumerate(buffers) if place.tensor is not None}
        self._buffer_index = {id(place.tensor): i for i, place in enumerate(buffers) if place.tensor is not None}
        self._parts = {id(t): InputLeaf(path) for path, t in leaves(inputs) if isinstance(t, torch.Tensor)}
        self._alive: list[Any] = [inputs]  # an identity is good as long as its object lives
        self._slots: dict[int, Slot] = {}
        self._values: dict[int, torch.Tensor] = {}
        self._constant: set[int] = set()
        self._shaped: set[int] = set()
        self._without_graph: dict[int, tuple[str, str, str]] = {}
        self._created: dict[int, int] = {self._storage(t): -1 for _, t in leaves(inputs) if isinstance(t, torch.Tensor)}
        self._written: list[tuple[int, int]] = []
        self._written_buffers: set[int] = set()
        self._operations: list[Operation] = []
        self._scopes = [""]
        self._inside: Operation | None = None
        self._own = False
        self._states: tuple[Array, ...] = ()
        self._autocast = torch.is_autocast_enabled("cpu")

    # -- while the model runs ------------------------------------------------------------------------------

    def record(self, forward: Callable[[], Any]) -> Recording:
        """Run a forward pass and return its recording.

        Raises:
            ReadsValueError: it reads a value.
        """
        self._states = generators.save()
        original = torch.nn.Module.__call__

        def call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            return self._module(original, module, args, kwargs)

        torch.nn.Module.__call__ = call  # type: ignore[method-assign]
        try:
            with self:
                outputs = forward()
            self._check_generators()
            template = mapped(self._reference, outputs)
        finally:
            torch.nn.Module.__call__ = original  # type: ignore[method-assign]
        return self._finished(template)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._own:
            return func(*args, **(kwargs or {}))
        if self._inside is not None:
            self._note_uses(self._inside, (args, kwargs))
            return func(*args, **(kwargs or {}))
        return self._operation(func, args, kwargs or {}, _name(func), self._scopes[-1])

    def _module(self, original: Any, module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        path = self._paths.get(id(module), self._scopes[-1])
        if self._inside is not None:
            return original(module, *args, **kwargs)
        if path in self._opaque or (type(module).__module__.startswith("torch.nn.") and not _container(module)):
            name, whole = type(module).__name__, path in self._opaque
            hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
            if hooked or module._backward_pre_hooks:
                return self._operation(_Whole(original, module), args, kwargs, name, path, whole, module)
            if type(module) is torch.nn.Linear:  # spares looking the parameters up
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
        module: torch.nn.Module | None = None,
    ) -> Any:  # fmt: skip
        self._check_generators()
        operation = Operation(call, None, None, [], name, scope, _place())
        if module is not None:
            self._note_uses(operation, list(module.parameters()))
        self._note_uses(operation, (args, kwargs))
        operation.args, operation.kwargs = mapped(self._reference, args), mapped(self._reference, kwargs)
        given = [t for _, t in leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        given += [t for _, index in leaves((args, kwargs)) if isinstance(index, slice)
                  for t in (index.start, index.stop, index.step) if isinstance(t, torch.Tensor)]  # fmt: skip
        versions = [tensor._version for tensor in given]
        self._inside, self._own = operation, False
        try:
            result = call(*args, **kwargs)
        finally:
            self._inside, self._own = None, True
        self._alive.append((args, kwargs, result))
        after = generators.save()
        operation.draws, self._states = generators.moved(self._states, after), after
        written = [t for t, version in zip(given, versions, strict=True) if t._version != version]
        written += self._changed_buffers(operation.buffers)
        made = [(path, t) for path, t in leaves(result) if isinstance(t, torch.Tensor)]
        constant = not (operation.parameters or operation.draws or opaque) and all(map(self._is_constant, given))
        shaped = any(id(t) in self._shaped for t in given)
        if opaque and any(not isinstance(leaf, torch.Tensor | None) for _, leaf in leaves(result)):
            raise ReadsValueError(scope.rpartition(".")[0] if scope else "", f"{name} returns a value", operation.place)
        if not made and not written:
            if not constant and (name in READS or (shaped and name in READS_SHAPE)):
                raise ReadsValueError(scope, name, operation.place)
            return result
        self._keep(operation, made, written, constant, shaped or _shapes_by_values(name, given))
        return result

    def _keep(self, operation: Operation, made: Any, written: Any, constant: bool, shaped: bool) -> None:
        at = len(self._operations)
        operation.call = self._in_same_mode(operation.call)
        for tensor in written:
            self._written.append((self._storage(tensor), at))
            self._without_graph.pop(id(tensor), None)
            if not constant:
                self._forget_constant(self._storage(tensor))
        for path, tensor in made:
            known = id(tensor) in self._slots or id(tensor) in self._parts or id(tensor) in self._numbers
            if known or id(tensor) in self._buffer_index:
                continue
            slot = Slot(len(self._slots))
            self._slots[id(tensor)], self._values[slot.number] = slot, tensor
            self._created.setdefault(self._storage(tensor), at)
            operation.results.append((slot, path))
            if constant and not tensor.requires_grad and "empty" not in operation.name:
                self._constant.add(id(tensor))
            if shaped:
                self._shaped.add(id(tensor))
            if not torch.is_grad_enabled():  # gets a graph later only from a torch.autograd.Function around it
                self._without_graph[id(tensor)] = (operation.scope, "a torch.autograd.Function", operation.place)
        self._operations.append(operation)

    def _note_uses(self, operation: Operation, values: Any) -> None:
        for _, leaf in leaves(values):
            if id(leaf) in self._numbers:
                operation.parameters.add(self._numbers[id(leaf)])
            elif id(leaf) in self._buffer_index:
                operation.buffers.add(self._buffer_index[id(leaf)])

    def _changed_buffers(self, used: set[int]) -> list[torch.Tensor]:
        """Those of the used buffers that have changed. Their values tell: BatchNorm leaves the version as it is."""
        changed = []
        for index in used:
            now = self._places[index].tensor
            if not torch.equal(now, self._known[index]):
                self._known[index] = now.clone()
                self._written_buffers.add(index)
                changed.append(now)
        return changed

    def _reference(self, leaf: Any) -> Any:
        if id(leaf) in self._buffer_index:
            return self._places[self._buffer_index[id(leaf)]]
        if not isinstance(leaf, torch.Tensor) or id(leaf) in self._numbers:
            return leaf
        if leaf.grad_fn is not None and id(leaf) in self._without_graph:
            raise ReadsValueError(*self._without_graph[id(leaf)])
        found: Any = self._slots.get(id(leaf)) or self._parts.get(id(leaf))
        if found is None and leaf.grad_fn is not None:
            raise ReadsValueError(self._scopes[-1], "an operation that PyTorch does not let others see", _place())
        return leaf if found is None else found

    def _is_constant(self, tensor: torch.Tensor) -> bool:
        if id(tensor) in self._slots:
            return id(tensor) in self._constant
        return id(tensor) not in self._parts and id(tensor) not in self._numbers

    def _forget_constant(self, storage: int) -> None:
        for tensor in self._values.values():
            if self._storage(tensor) == storage:
                self._constant.discard(id(tensor))

    def _in_same_mode(self, call: Any) -> Any:
        if not torch.is_grad_enabled():
            call = torch.no_grad()(call)
        if torch.is_autocast_enabled("cpu") != self._autocast:
            call = torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu"), dtype=torch.bfloat16)(call)
        return call

    def _check_generators(self) -> None:
        others = generators.save(("python", "numpy"))
        if generators.moved(self._states, (self._states[0], *others)):
            raise ReadsValueError(self._scopes[-1], "a random number of Python or NumPy", _place())

    def record_pieces(self, pieces: Sequence[Callable[..., Any]], model: torch.nn.Module, inputs: Any) -> Recording:
        """Run a job's own stages one after another: one operation each, whatever they do."""
        operations, value = [], inputs
        for number, piece in enumerate(pieces):
            taken = Slot(number - 1) if number else InputLeaf(())
            operation = Operation(
                piece, (model, taken), {}, [(Slot(number), ())], f"stages[{number}]", f"stages[{number}]", _place()
            )
            states = generators.save()
            self._inside = operation
            try:
                with self:
                    value = piece(model, value)
            except RuntimeError as error:
                if "leaf Variable" not in str(error):
                    raise
                raise UsageError(
                    f"a stage may not change in place what it receives; stages[{number}] does ({error}). Let it make "
                    "a new tensor: x.relu() instead of x.relu_()."
                ) from error
            finally:
                self._inside = None
            for _, leaf in leaves(value):
                operation.parameters |= _reached(leaf, self._numbers)
            self._changed_buffers(operation.buffers)
            operation.draws = generators.moved(states, generators.save())
            operations.append(operation)
            value = mapped(_entered, value)
        return Recording(
            operations, Slot(len(pieces) - 1), {}, self._barred(operations, []), frozenset(self._written_buffers)
        )

    # -- afterwards ----------------------------------------------------------------------------------------

    def _finished(self, outputs: Any) -> Recording:
        written = {storage for storage, _ in self._written}
        fixed = {
            self._slots[key]: self._values[self._slots[key].number]
            for key in self._constant
            if self._storage(self._values[self._slots[key].number]) not in written
        }
        kept: list[Operation] = []
        moved_to: list[int] = []
        for at, operation in enumerate(self._operations):
            moved_to.append(len(kept))
            fills = [pair for pair in operation.results if pair[0] not in fixed]
            if operation.results and not fills and not operation.draws and not self._writes(at):
                continue
            operation.args = mapped(
                lambda leaf: fixed.get(leaf, leaf) if isinstance(leaf, Slot) else leaf, operation.args
            )
            operation.kwargs = mapped(
                lambda leaf: fixed.get(leaf, leaf) if isinstance(leaf, Slot) else leaf, operation.kwargs
            )
            operation.results = fills
            kept.append(operation)
        outputs = mapped(lambda leaf: fixed.get(leaf, leaf) if isinstance(leaf, Slot) else leaf, outputs)
        facts = {
            number: SlotFacts(t.dtype, t.requires_grad, t.numel() * t.element_size())
            for number, t in self._values.items()
        }
        return Recording(kept, outputs, facts, self._barred(kept, moved_to), frozenset(self._written_buffers))

    def _writes(self, at: int) -> bool:
        return any(index == at for _, index in self._written)

    def _barred(self, operations: list[Operation], moved_to: list[int]) -> dict[int, str]:
        barred: dict[int, str] = {}
        for storage, at in self._written:
            created = self._created.get(storage)
            if created is None:
                continue
            writer = operations[moved_to[at]]
            why = f"{writer.name} at {writer.place} changes a tensor in place"
            first, last = (0, len(operations)) if created < 0 else (moved_to[created], moved_to[at])
            barred.update(dict.fromkeys(range(first + 1, last + 1), why))
        together: list[tuple[str, Callable[[Operation], set[int]], set[int]]] = [
            ("a buffer that it changes is used by several operations", lambda op: op.buffers, self._written_buffers)
        ]
        if self._cached_casts:
            every = set().union(*(operation.parameters for operation in operations))
            together.append(
                (
                    "autocast casts a parameter once for all its uses",
                    lambda op: set() if op.name in NOT_CAST else op.parameters,
                    every,
                )
            )
        for why, uses, among in together:
            for number in among:
                at_ = [index for index, operation in enumerate(operations) if number in uses(operation)]
                if at_:
                    barred.update(dict.fromkeys(range(at_[0] + 1, at_[-1] + 1), why))
        return barred

    @staticmethod
    def _storage(tensor: torch.Tensor) -> int:
        return int(tensor.untyped_storage()._cdata)


class _Whole:
    """A module called with its hooks."""

    def __init__(self, original: Any, module: torch.nn.Module) -> None:
        self._original, self._module = original, module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._original(self._module, *args, **kwargs)


def _name(function: Any) -> str:
    name = str(getattr(function, "__name__", function))
    return str(getattr(function.__self__, "__name__", name)) if name == "__get__" else name


def _container(module: torch.nn.Module) -> bool:
    return type(module) in CONTAINERS


def _entered(leaf: Any) -> Any:
    return leaf.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, torch.Tensor) else leaf


def _reached(leaf: Any, numbers: dict[int, int]) -> set[int]:
    """The parameters that autograd leads to."""
    found: set[int] = set()
    open_, seen = [leaf.grad_fn] if isinstance(leaf, torch.Tensor) else [], set()
    while open_:
        node = open_.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        number = numbers.get(id(getattr(node, "variable", None)))
        if number is not None:
            found.add(number)
        open_ += [following for following, _ in node.next_functions]
    return found


def _shapes_by_values(name: str, given: list[torch.Tensor]) -> bool:
    if name in SHAPED_BY_VALUES:
        return True
    return name == "__getitem__" and any(t.dtype in (torch.bool, torch.uint8) for t in given[1:])


def _place() -> str:
    """The innermost line of the user's own code."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torch/" not in file and "/unisono/frameworks/" not in file:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "the model's forward"


@contextlib.contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """A block after which generators and buffers are as they were."""
    states = generators.save()
    held = [(m._buffers, k, b, b.clone()) for m in model.modules() for k, b in m._buffers.items() if b is not None]
    try:
        yield
    finally:
        generators.load(states)
        with torch.no_grad():
            for buffers, key, buffer, value in held:
                buffer.data.copy_(value)  # `.data`: graphs that hold the buffer do not take it for changed
                buffers[key] = buffer
