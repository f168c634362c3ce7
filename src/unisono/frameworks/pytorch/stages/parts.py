"""What stages need of an adapter."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from unisono.frameworks.protocol import Array, Measured
from unisono.frameworks.pytorch.modes import Modes
from unisono.frameworks.pytorch.stages.operations import BufferPlace
from unisono.job import Job


@dataclass(frozen=True)
class Parts:
    """An adapter's own pieces, shared with its stages.

    Attributes:
        job, model: the job and its model.
        modes: the modes of its modules.
        parameters: every parameter, by number.
        trained: the numbers of the trained ones.
        buffers: every buffer, by index.
        forward: (inputs) → outputs.
        autocast: () → the block in which the forward pass and the loss run.
        explained: (inputs, parameters that another stage may be updating) → a block that explains known errors of a
            forward pass, and refuses what it may not change.
        loss: (outputs, targets, samples) → total and weight, the total finite.
        measured: (total, weight, outputs, targets) → what is measured.
        into, used, adding: where the gradient hooks write, and where they add.
        example: () → some microbatch.
    """

    job: Job
    model: torch.nn.Module
    modes: Modes
    parameters: list[torch.nn.Parameter]
    trained: frozenset[int]
    buffers: list[BufferPlace]
    forward: Callable[[Any], Any]
    autocast: Callable[[], AbstractContextManager[Any]]
    explained: Callable[[Any, frozenset[int]], AbstractContextManager[Any]]
    loss: Callable[[Any, Any, int], tuple[torch.Tensor, float]]
    measured: Callable[[torch.Tensor, float, Any, Any], Measured]
    into: list[torch.Tensor | None]
    used: Array
    adding: Array
    example: Callable[[], Any]
