"""What an optimizer that is stepped as it is does in a step: tried once, and undone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unisono.errors import JobError, UsageError
from unisono.frameworks.pytorch.whole import WholeOptimizer

TRIED = 8
"""Steps at most: an optimizer may gather gradients for a few before it changes a parameter."""


def probe(whole: WholeOptimizer) -> None:
    """Try a step of an optimizer, and undo it.

    Raises:
        UsageError: it raises, it changes nothing, or what it does not hold.
        JobError: something changes that cannot be kept.
    """
    whole.own = {group: set(values) - {"params"} for group, values in enumerate(whole.groups)}
    settings = [dict(group) for group in whole.groups]
    plain, arrays = whole.content()
    first = {name: array.copy() for name, array in arrays.items()}
    tensors = dict(whole.model.named_parameters()) | dict(whole.model.named_buffers())
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    own = {id(parameter) for group in whole.master.param_groups for parameter in group["params"]}
    try:
        changed = _tried(whole, tensors, before)
        whole.content()
    finally:
        for name, tensor in tensors.items():
            tensor.grad = None
            tensor.data.copy_(before[name])
        for group, values in zip(whole.groups, settings, strict=True):
            group.clear()
            group.update(values)
        whole.read(plain, first)
        whole.own = {}
    if not changed & {name for name, tensor in tensors.items() if id(tensor) in own}:
        raise UsageError(
            f"an optimizer must change the parameters that it is given; {whole.root} changed none in {TRIED} steps "
            "with gradients that were not 0. Let its step() update the parameters of its param_groups."
        )
    others = sorted(name for name in changed if id(tensors[name]) not in own)
    if others:
        raise UsageError(
            f"an optimizer may change the parameters of its param_groups; {whole.root} changes {others[0]!r} too. "
            "Keep such a copy in the optimizer itself: self.copies = [p.clone() for p in params]."
        )


def _tried(whole: WholeOptimizer, tensors: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> set[str]:
    changed: set[str] = set()
    for number in range(TRIED):
        gradients = [
            (parameter, _stand_in(parameter, number))
            for group in whole.master.param_groups for parameter in group["params"]
        ]  # fmt: skip
        try:
            whole.step(gradients, range(0))
        except JobError:
            raise
        except Exception as error:
            raise UsageError(
                f"an optimizer steps from gradients alone, without a closure; trying {whole.root}.step() raised "
                f"{type(error).__name__}: {error}. Compute what it needs from p.grad and its own state."
            ) from error
        changed = {name for name, tensor in tensors.items() if not _same(tensor, before[name])}
        if changed:
            break
    return changed


def _stand_in(parameter: Tensor, number: int) -> Tensor:
    """A gradient of which no element is 0."""
    return torch.linspace(-1, 1.5 + number, 2 * parameter.numel(), dtype=parameter.dtype)[::2].reshape(parameter.shape)


def _same(tensor: Tensor, before: Tensor) -> bool:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).equal(before.contiguous().view(-1).view(torch.uint8))
