"""Which optimizer trains which parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from unisono.errors import UsageError
from unisono.frameworks.jobs import check_trained
from unisono.frameworks.pytorch.stages.travel import dtype_name


def owners_of(
    named: Sequence[tuple[str, torch.nn.Parameter]], masters: Sequence[Any]
) -> tuple[tuple[int | None, ...], dict[int, int]]:
    """Per parameter the index of its optimizer, None when it is frozen; and of the trained ones their group.

    What no optimizer holds is frozen, and optimizers keep no frozen ones.

    Args:
        named: the model's parameters.
        masters: the job's optimizers.

    Raises:
        UsageError: an optimizer holds another parameter, or one of another dtype; nothing is trained.
    """
    numbers = {id(parameter): number for number, (_, parameter) in enumerate(named)}
    owner_of: dict[int, int] = {}
    group_of: dict[int, int] = {}
    for index, master in enumerate(masters):
        for group_index, group in enumerate(master.param_groups):
            for parameter in group["params"]:
                number = numbers.get(id(parameter))
                if number is None:
                    raise UsageError(
                        "job.optimizer may only hold parameters of the model it is given; it holds one that "
                        "model.named_parameters() does not list. Register it in the model."
                    )
                if not parameter.requires_grad:
                    continue
                check_trained(named[number][0], dtype_name(parameter), "Keep it float32 and set precision='bfloat16'")
                owner_of[number], group_of[number] = index, group_index
            group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    if not group_of:
        raise UsageError("nothing to train: job.optimizer holds no parameter with requires_grad=True.")
    for number, (_, parameter) in enumerate(named):
        parameter.requires_grad_(number in owner_of)
    return tuple(map(owner_of.get, range(len(named)))), group_of
