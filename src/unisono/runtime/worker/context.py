"""What the work of any slot needs, one value per process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unisono.job import Job
from unisono.memory.packing import Reducers
from unisono.runtime.rules.request import Request
from unisono.runtime.rules.rounds import Program, Round
from unisono.runtime.state.host_state import HostState
from unisono.runtime.worker.lr_schedule import Schedule


@dataclass
class Context:
    """What the work of any slot needs, one per process.

    Attributes:
        job: the job.
        request: what the run asks of this host.
        program: its rounds.
        state: the host's shared state.
        adapter: the framework's adapter, bound to the shared parameters.
        schedule: its learning-rate schedules.
        take: (round, microbatch) → (inputs, targets), once its loader has it.
        read: (round, microbatch) → (inputs, targets), read again by this process.
        reducers: how tensors are sent (evaluation outputs).
        cuts: how the model is cut (see `Adapter.stage`); nothing = it is computed whole.
    """

    job: Job
    request: Request
    program: Program
    state: HostState
    adapter: Any
    schedule: Schedule
    take: Callable[[Round, int], Any]
    read: Callable[[Round, int], Any]
    reducers: Reducers
    cuts: tuple[int, ...] = ()
