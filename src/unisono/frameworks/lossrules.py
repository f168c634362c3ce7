"""What a microbatch's loss and weight must be, in any framework."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import numpy as np

from unisono.errors import JobError
from unisono.values.arrays import Array

MOST_WEIGHT = 2.0**53
"""Up to here weights are counted exactly, and a batch's sum of them divides gradients of 32 bits."""

SUMMED = "return (total, weight): the sum of the losses, and how many targets count"


def check_loss(loss: float, weight: float, outputs_are_finite: Callable[[], bool | None]) -> None:
    """Refuse a loss that is not finite, with the advice that fits.

    Args:
        loss, weight: of the microbatch.
        outputs_are_finite: whether the model's outputs are; None where that is not known.

    Raises:
        JobError: the loss is not finite, or the weight is no weight.
    """
    if not 0 <= weight <= MOST_WEIGHT:
        raise JobError(
            f"the weight of a loss must be finite, at least 0 and at most {MOST_WEIGHT:.0f}; it is {weight}. Return "
            "(total, weight) with the number of targets that count."
        )
    if math.isfinite(loss):
        return
    if weight == 0:
        raise JobError(
            f"the loss must be finite; of weight 0 it is {loss}, as a mean over no target is (0 / 0). Return the sum "
            "of the losses beside the weight, not their mean: of no target it is 0."
        )
    finite = None if math.isnan(loss) else False
    if finite is None:
        with contextlib.suppress(Exception):  # outputs may be anything
            finite = outputs_are_finite()
    usual = "lower the learning rate, set clip_norm, or look for bad samples"
    if finite:
        advice = f"The model's outputs are finite. If no target of this microbatch counts (all ignored), {SUMMED}"
    elif finite is None:
        advice = f"If no target of this microbatch counts (all ignored), {SUMMED}; else {usual}"
    else:
        advice = usual.capitalize()
    raise JobError(f"the loss must be finite; it is {loss}. {advice}.")


def no_graph(outputs_have_one: bool) -> JobError:
    """A loss from which no gradient follows.

    Args:
        outputs_have_one: whether a gradient could follow from the model's outputs.
    """
    if outputs_have_one:
        where = (
            "The model's outputs lead to them: it is job.loss that loses the way (.detach(), .item(), argmax, a "
            "comparison, NumPy)"
        )
    else:
        where = (
            "Nor do the model's outputs: the forward pass loses the way (no_grad, .detach(), .data), or uses no "
            "trained parameter"
        )
    return JobError(
        f"job.loss must lead to the trained parameters, or there is nothing to learn; no gradient follows from what it "
        f"returned. {where}. Where no target counts, return (0, 0)."
    )


def not_finite(name: str, gradient: Array) -> JobError:
    """A gradient that cannot be learnt from.

    Args:
        name: its parameter's.
        gradient: its values, or a part of them.
    """
    wrong = gradient[~np.isfinite(gradient)]
    return JobError(
        f"a gradient must be finite; of {name!r} {wrong.size} of {gradient.size} elements are "
        f"not (the first is {wrong[0]}). Nothing can be learnt from this step. Look for bad samples, divisions "
        "by 0 and square roots of 0 (their gradient is infinite), lower the learning rate, or set clip_norm, "
        "which keeps the gradients of other steps small."
    )
