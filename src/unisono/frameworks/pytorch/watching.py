"""What a forward pass may not change: the model's parameters, its modules, the form of its buffers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from operator import is_, itemgetter, ne
from typing import Any

import torch
from torch import nn

from unisono.errors import SpoiledError, UsageError
from unisono.frameworks.pytorch.stages.travel import as_array
from unisono.frameworks.unchanged import LOOKED_AT, Samples, refusal
from unisono.memory.spans import Span

WAYS_OUT = (
    "A weight that is normed or clipped: compute it in forward, without writing it back. A copy that follows by a "
    "moving average: keep it as buffers (register_buffer), which forward may change. Values found from data: find "
    "them in model()"
)


_END: Any = object()
"""After the last parameter, where one more is another in its place."""


class Watch:
    """Looks at a model before and after each forward pass.

    What the parameters hold is compared with what they held before the pass, for other processes update them between
    two steps. What they are (their memory, counts of writes, requires_grad) only this process changes, and `forget`
    tells when it may: so it is compared with what it was after the pass before.

    Args:
        model: the model.
        named: the parameters that nobody else may be changing meanwhile.
    """

    def __init__(self, model: nn.Module, named: Sequence[tuple[str, nn.Parameter]]) -> None:
        self._names, self._tensors = [name for name, _ in named], [parameter for _, parameter in named]
        modules = list(model.modules())
        self._parameters = [*(module._parameters.values() for module in modules), (_END,)]
        self._held = [*chain.from_iterable(self._parameters)]
        self._buffers = [module._buffers for module in modules if module._buffers]
        self._forms = self._formed()
        self._children = [module._modules for module in modules]
        self._modules = sum(map(len, self._children))
        self._samples, self._sampled = Samples(()), [0]
        self._known: tuple[list[Any], ...] | None = None

    def forget(self) -> None:
        """This process may have changed what the parameters are, as it should."""
        self._known = None

    def look(self) -> Any:
        """What is compared after the forward pass."""
        if self._known is None:
            self._known = self._seen()
            if self._known[0] != self._sampled:
                self._sampled, self._samples = self._known[0], Samples(_readable(self._tensors))
        return self._samples.read()

    def check(self, before: Any) -> None:
        """Compare.

        Raises:
            SpoiledError: a parameter, a module, or the form of a buffer is another one.
        """
        if (
            not all(map(is_, chain.from_iterable(self._parameters), self._held))
            or sum(map(len, self._children)) != self._modules
        ):
            raise SpoiledError(
                "a model has the parameters and modules that model() gave it; the forward pass has put others in their "
                f"places, which nothing would train. Make them in model(). {WAYS_OUT}."
            )
        seen, samples = self._seen(), self._samples.read()
        if seen != self._known or samples != before:
            raise SpoiledError(refusal(self._changed(seen, before, samples), WAYS_OUT))
        if self._buffers:
            forms = self._formed()
            if forms != self._forms:
                self._refuse_form(forms)

    def _seen(self) -> tuple[list[Any], ...]:
        """Memory and counts of writes, and requires_grad."""
        return (
            [tensor.data_ptr() for tensor in self._tensors],
            [tensor._version for tensor in self._tensors],
            [tensor.requires_grad for tensor in self._tensors],
        )

    def _changed(self, seen: tuple[list[Any], ...], before: Any, samples: Any) -> str:
        """Names the first parameter that is another."""
        assert self._known is not None
        *traces, graph = (list(map(ne, old, new)) for old, new in zip(self._known, seen, strict=True))
        for others in traces:
            if any(others):
                return repr(self._names[others.index(True)])
        if samples != before:
            return repr(self._names[self._samples.first_other(before, samples)])
        return f"requires_grad of {self._names[graph.index(True)]!r}"

    def _formed(self) -> list[Any]:
        held = chain.from_iterable(buffers.values() for buffers in self._buffers)
        return [None if buffer is None else (buffer.shape, buffer.dtype) for buffer in held]

    def _refuse_form(self, forms: list[Any]) -> None:
        names = list(chain.from_iterable(self._buffers))
        changed = (n for n, (a, b) in enumerate(zip(self._forms, forms, strict=False)) if a != b)
        number = next(changed, min(len(forms), len(self._forms)) - 1)
        raise SpoiledError(
            f"a buffer keeps its shape and dtype, for it lies in shared memory; the forward pass has changed those of "
            f"{names[number]!r}. Give it its largest shape in model(), or keep what is computed anew in no buffer."
        )


class Marks:
    """A few elements of each parameter on a device, where what writes by way of `.data` leaves no other trace.

    They are looked at before a round's first pass and after its last one, and compared on the device.

    Args:
        named: the parameters.
    """

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]]) -> None:
        self._names = [name for name, _ in named]
        self._views = [_some_of(parameter) for _, parameter in named]
        self._before = self._read()

    def _read(self) -> torch.Tensor:
        return torch.cat([view.to(torch.float64) for view in self._views]).view(torch.int64)

    def changed(self) -> torch.Tensor:
        """The place of an element that is another than before, on the device; -1 if none is."""
        others = self._read() != self._before
        return torch.where(others.any(), others.to(torch.uint8).argmax(), -1)

    def check(self, place: float) -> None:
        """See what has been fetched of `changed`.

        Raises:
            SpoiledError: there is one.
        """
        if place >= 0:
            sizes = accumulate(view.numel() for view in self._views)
            name = next(name for name, last in zip(self._names, sizes, strict=True) if place < last)
            raise SpoiledError(refusal(repr(name), WAYS_OUT))


def _some_of(parameter: nn.Parameter) -> torch.Tensor:
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, (flat.numel() - 1) // (LOOKED_AT - 1))]


def _readable(tensors: Sequence[nn.Parameter]) -> list[Any]:
    """The parameters as arrays; none where they lie on a device, from which nothing is fetched in a pass."""
    return [as_array(tensor) for tensor in tensors if tensor.device.type == "cpu"]


def check_buffers(model: nn.Module) -> None:
    """Refuse buffers that NumPy cannot lie over, as they travel and are kept.

    Raises:
        UsageError: one is compressed, conjugate in name only, or of a dtype that NumPy lacks.
    """
    for name, buffer in model.named_buffers():
        try:
            as_array(buffer)
        except (TypeError, RuntimeError) as error:
            raise UsageError(
                f"buffers are plain tensors, in dtypes that NumPy has; {name!r} is {buffer.dtype}, {buffer.layout} "
                f"({error}). Write .to_dense(), .resolve_conj() or .float() in model()."
            ) from error


def check_memory(model: nn.Module, named: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Refuse trained parameters that share memory with others, or with themselves.

    Raises:
        UsageError: two overlap, one is expanded, or a buffer is a view of one.
    """
    for name, parameter in named:
        if nn.parameter.is_lazy(parameter):
            raise UsageError(
                f"parameters have their shapes when model() returns; {name!r} has none. Give lazy layers a batch in "
                "model(), or write the layers with their sizes."
            )
        if parameter.is_sparse or parameter.layout is not torch.strided:
            raise UsageError(f"parameters are dense; {name!r} is {parameter.layout}. Use .to_dense().")
        if any(stride == 0 and size > 1 for size, stride in zip(parameter.shape, parameter.stride(), strict=True)):
            raise UsageError(
                f"each element of a parameter has a place of its own; {name!r} is expanded. Use .clone(), or keep the "
                "small one as the parameter and expand it in forward."
            )
    tensors = [*named, *((name, buffer) for name, buffer in model.named_buffers() if buffer.layout is torch.strided)]
    spans = sorted(
        (span.start, span.stop, name, tensor.requires_grad and tensor.is_leaf)
        for name, tensor in tensors if tensor.numel() for span in [Span.of(as_array(tensor))]
    )  # fmt: skip
    last = (0, 0, "", False)
    for span in spans:
        if span[0] < last[1] and (span[3] or last[3]):
            raise UsageError(
                f"a trained parameter's memory is its own; {last[2]!r} and {span[2]!r} overlap, and would be trained "
                "apart from each other. Use the same Parameter in both places (self.b = self.a), or .clone() one."
            )
        last = max(last, span, key=itemgetter(1))
