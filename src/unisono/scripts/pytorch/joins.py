"""How the outputs of microbatches become those of the whole batch: found by probes, never assumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from unisono.scripts.pytorch.request import Answer
from unisono.scripts.pytorch.values import add
from unisono.scripts.tree_sums import summed

Join = int | Literal["mean", "sum", "same"]
"""Of an output: one piece after another along this dimension; mean over samples; sum; or the same in all pieces."""

_NUMBERS = (int, float)
ROUNDING, COARSE_ROUNDING = 2e-4, 5e-2
"""How far two ways to compute the same may differ, of the largest number; the latter in 16 bits."""

_EQUAL_SHARE = 0.9
"""Of integers computed in two ways: a rounding may change which of two numbers is the larger."""


def possible(whole: Any, parts: Sequence[Any], weights: Sequence[float], dim: int, tolerance: float) -> set[Join]:
    """The ways in which an output of the whole batch could be made from those of its parts.

    Args:
        whole: what the whole batch gave.
        parts: what each microbatch gave.
        weights: each one's share of the samples.
        dim: the batch's dimension.
        tolerance: what rounding may change.
    """
    if isinstance(whole, torch.Tensor):
        if not all(isinstance(part, torch.Tensor) and part.dtype == whole.dtype for part in parts):
            return set()
        dims = range(whole.dim())
        for along in sorted(dims, key=lambda each: each != dim):
            if _fits(whole, parts, along):
                return {along} if _near(torch.cat(list(parts), along), whole, tolerance) else set()
        if any(part.shape != whole.shape for part in parts):
            return set()
        ways: tuple[Join, ...] = ("mean", "sum") if whole.is_floating_point() else ("same", "sum")
        return {way for way in ways if _near(joined(way, parts, weights), whole, tolerance)}
    if type(whole) in _NUMBERS and all(type(part) is type(whole) for part in parts):
        ways = ("mean", "sum") if type(whole) is float else ("same", "sum")
        return {way for way in ways if _near_numbers(joined(way, parts, weights), whole, tolerance)}
    return {"same"} if all(_same(part, whole) for part in parts) else set()


def _same(part: Any, whole: Any) -> bool:
    try:
        return type(part) is type(whole) and bool(part == whole)
    except Exception:
        return False


def joined(way: Join, parts: Sequence[Any], weights: Sequence[float]) -> Any:
    """The output of a call.

    Args:
        way: how.
        parts, weights: see `possible`.
    """
    if isinstance(way, int):
        return torch.cat(list(parts), way)
    if way == "same":
        return parts[0]
    if isinstance(parts[0], torch.Tensor):
        values = [part * weight if way == "mean" else part.clone() for part, weight in zip(parts, weights, strict=True)]
        return summed(values, add)
    numbers = [part * weight if way == "mean" else part for part, weight in zip(parts, weights, strict=True)]
    return summed(numbers, lambda left, right: left + right)


def shares(
    way: Join, gradient: torch.Tensor | None, parts: Sequence[torch.Size], weights: Sequence[float]
) -> list[torch.Tensor | None]:
    """The gradient of each microbatch's output from that of the joined one.

    Args:
        way, weights: see `joined`.
        gradient: of the joined output.
        parts: the shapes of the microbatches' outputs.
    """
    if gradient is None:
        return [None] * len(parts)
    if isinstance(way, int):
        return list(torch.split(gradient, [shape[way] for shape in parts], way))
    return [gradient * weight if way == "mean" else gradient for weight in weights]


def tensors_of(answer: Answer) -> list[torch.Tensor]:
    """The outputs that are tensors."""
    return [leaf for leaf in answer.leaves if isinstance(leaf, torch.Tensor)]


def _fits(whole: torch.Tensor, parts: Sequence[torch.Tensor], dim: int) -> bool:
    """Whether the parts' lengths add up, and nothing else differs."""
    if any(part.dim() != whole.dim() for part in parts):
        return False
    others = [part.shape[:dim] + part.shape[dim + 1 :] for part in parts]
    rest = whole.shape[:dim] + whole.shape[dim + 1 :]
    return all(other == rest for other in others) and sum(part.shape[dim] for part in parts) == whole.shape[dim]


def _near(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Whether two tensors differ by rounding alone."""
    if not other.numel():
        return True
    if not one.is_floating_point() and not one.is_complex():
        share = float((one == other).float().mean())
        return share == 1.0 or (one.dim() > 0 and share >= _EQUAL_SHARE)
    finite = torch.isfinite(other)
    scale = float(other[finite].abs().max()) if bool(finite.any()) else 0.0
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * scale + 1e-12, equal_nan=True)


def _near_numbers(one: float, other: float, tolerance: float) -> bool:
    return one == other or abs(one - other) <= tolerance * abs(other) or (one != one and other != other)
