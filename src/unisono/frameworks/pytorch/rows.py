"""What passes gave of microbatches, left where it was computed until all of it is fetched at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from unisono.errors import JobError
from unisono.frameworks.lossrules import check_loss
from unisono.frameworks.protocol import Measured
from unisono.frameworks.pytorch.devices import home
from unisono.frameworks.pytorch.watching import Marks


def is_away(value: Any) -> bool:
    """Whether it lies on a device, from which fetching it makes this process wait."""
    return isinstance(value, Tensor) and value.device.type != "cpu"


@dataclass(frozen=True)
class Row:
    """What a pass gave of one microbatch: numbers, and tensors of one number.

    Attributes:
        loss, weight: the sums.
        metrics: (sum, count) of each.
        outputs: (outputs, targets) where they are kept.
        trains: whether it was a training pass on a device, whose loss nobody has looked at yet.
        lost: what is wrong with a loss from which no gradient follows, unless its weight is 0.
    """

    loss: Any
    weight: Any
    metrics: tuple[tuple[Any, Any], ...] = ()
    outputs: Any = None
    trains: bool = False
    lost: JobError | None = None


def own(value: Any) -> Any:
    """A number as it is now: who computed it may write the next one into the same tensor."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def measured(rows: Sequence[Row], marks: Marks | None = None) -> list[Measured]:
    """The rows in plain numbers: in one transfer, if they lie on a device. Outputs that are kept come one by one.

    Args:
        rows: of one round.
        marks: the parameters' before it, to be looked at with them.

    Raises:
        SpoiledError: a parameter is another.
        JobError: a training pass's loss is not finite, its weight is no weight, or no gradient follows from it.

    >>> measured([Row(torch.tensor(1.5), 2.0, ((torch.tensor(3), 4),))])
    [Measured(loss=1.5, weight=2.0, metrics=((3.0, 4.0),), outputs=None)]
    """
    values = chain.from_iterable((row.loss, row.weight, *chain(*row.metrics)) for row in rows)
    *found_values, changed = fetched([*values, -1 if marks is None else marks.changed()])
    if marks is not None:
        marks.check(changed)
    numbers, found = iter(found_values), []
    for row in rows:
        loss, weight = next(numbers), next(numbers)
        if row.trains:
            check_loss(loss, weight, lambda: None)
            if row.lost is not None and weight:
                raise row.lost
        metrics = tuple((next(numbers), next(numbers)) for _ in row.metrics)
        outputs = home(row.outputs) if is_away(row.loss) else row.outputs
        found.append(Measured(loss, weight, metrics, outputs))
    return found


def fetched(values: Iterable[Any]) -> list[float]:
    """Values of one number each as Python's: float64 holds what any dtype of losses and counts does."""
    values = list(values)
    away = [value.detach().reshape(()).to(torch.float64) for value in values if is_away(value)]
    come = iter(torch.stack(away).cpu().tolist() if away else ())
    return [next(come) if is_away(value) else float(value) for value in values]
