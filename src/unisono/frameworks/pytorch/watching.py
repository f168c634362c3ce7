"""What a forward pass may not change: the model's parameters, its modules, the form of its buffers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import is_
from typing import Any

import torch

from unisono.errors import SpoiledError, UsageError
from unisono.frameworks.protocol import Array
from unisono.frameworks.pytorch.stages.travel import as_array
from unisono.frameworks.watched import refusal, some_of
from unisono.memory.spans import Span

WAYS_OUT = (
    "A weight that is normed or clipped: compute it in forward, without writing it back. A copy that follows by a "
    "moving average: keep it as buffers (register_buffer), which forward may change. Values found from data: find "
    "them in model()"
)


class Watch:
    """Looks at a model before and after each forward pass.

    Args:
        model: the model.
        named: the parameters that nobody else may be changing meanwhile.
    """

    def __init__(self, model: torch.nn.Module, named: Sequence[tuple[str, torch.nn.Parameter]]) -> None:
        self._named = named
        modules = list(model.modules())
        self._parameters = [module._parameters for module in modules if module._parameters]
        self._buffers = [module._buffers for module in modules if module._buffers]
        self._forms = [_form(buffer) for buffer in chain.from_iterable(b.values() for b in self._buffers)]
        self._children = [module._modules for module in modules]
        self._samples: tuple[list[int], list[Array]] = ([], [])

    def look(self) -> Any:
        """What is compared after the forward pass."""
        places = [parameter.data_ptr() for _, parameter in self._named]
        if places != self._samples[0]:
            self._samples = places, [some_of(as_array(parameter)) for _, parameter in self._named]
        return (
            [*chain.from_iterable(held.values() for held in self._parameters)],
            places,
            [parameter._version for _, parameter in self._named],
            [sample.tobytes() for sample in self._samples[1]],
            [parameter.requires_grad for _, parameter in self._named],
            sum(map(len, self._children)),
        )

    def check(self, before: Any) -> None:
        """Compare.

        Raises:
            SpoiledError: a parameter, a module, or the form of a buffer is another one.
        """
        held, *values, children = before
        now = [*chain.from_iterable(parameters.values() for parameters in self._parameters)]
        if len(now) != len(held) or not all(map(is_, now, held)) or sum(map(len, self._children)) != children:
            raise SpoiledError(
                "a model has the parameters and modules that model() gave it; the forward pass has put others in their "
                f"places, which nothing would train. Make them in model(). {WAYS_OUT}."
            )
        for what, earlier, later in zip(("", "", "", "requires_grad of "), values, self._values(), strict=True):
            if earlier != later:
                number = next(n for n, (a, b) in enumerate(zip(earlier, later, strict=True)) if a != b)
                raise SpoiledError(refusal(f"{what}{self._named[number][0]!r}", WAYS_OUT))
        forms = [_form(buffer) for buffer in chain.from_iterable(b.values() for b in self._buffers)]
        if forms != self._forms:
            self._refuse_form(forms)

    def _values(self) -> tuple[list[Any], ...]:
        return (
            [parameter.data_ptr() for _, parameter in self._named],
            [parameter._version for _, parameter in self._named],
            [sample.tobytes() for sample in self._samples[1]],
            [parameter.requires_grad for _, parameter in self._named],
        )

    def _refuse_form(self, forms: list[Any]) -> None:
        names = list(chain.from_iterable(self._buffers))
        changed = (n for n, (a, b) in enumerate(zip(self._forms, forms, strict=False)) if a != b)
        number = next(changed, min(len(forms), len(self._forms)) - 1)
        raise SpoiledError(
            f"a buffer keeps its shape and dtype, for it lies in shared memory; the forward pass has changed those of "
            f"{names[number]!r}. Give it its largest shape in model(), or keep what is computed anew in no buffer."
        )


def _form(buffer: torch.Tensor | None) -> Any:
    return None if buffer is None else (buffer.shape, buffer.dtype)


def check_buffers(model: torch.nn.Module) -> None:
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


def check_memory(model: torch.nn.Module, named: Sequence[tuple[str, torch.nn.Parameter]]) -> None:
    """Refuse trained parameters that share memory with others, or with themselves.

    Raises:
        UsageError: two overlap, one is expanded, or a buffer is a view of one.
    """
    for name, parameter in named:
        if torch.nn.parameter.is_lazy(parameter):
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
    held = [(Span.of(as_array(tensor)), name, tensor) for name, tensor in tensors if tensor.numel()]
    spans = sorted((span.start, span.stop, name, t.requires_grad and t.is_leaf) for span, name, t in held)
    last = (0, 0, "", False)
    for span in spans:
        if span[0] < last[1] and (span[3] or last[3]):
            raise UsageError(
                f"a trained parameter's memory is its own; {last[2]!r} and {span[2]!r} overlap, and would be trained "
                "apart from each other. Use the same Parameter in both places (self.b = self.a), or .clone() one."
            )
        last = max(last, span, key=lambda one: one[1])
