"""Tensors of a call: copies with memory of their own, and sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from unisono.scripts.pytorch.numerics import Numerics


def own_copy(leaf: Any) -> Any:
    """An argument that a microbatch may change, with no graph behind it."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return leaf.detach().clone().requires_grad_(leaf.requires_grad)


def add(left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor | None:
    """left + right, in left's memory; None is a gradient that there is not."""
    if left is None or right is None:
        return right if left is None else left
    return left.add_(right)


def added(
    numerics: Numerics, left: Sequence[torch.Tensor | None], right: Sequence[torch.Tensor | None]
) -> list[torch.Tensor | None]:  # fmt: skip
    """The sums of several gradients, with a call's settings; see `add`."""
    with torch.no_grad(), numerics.hold():
        return [add(*each) for each in zip(left, right, strict=True)]
