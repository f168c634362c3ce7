"""A job's optimizers: their state, one update of a chunk, their schedules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

from unisono.frameworks.scratch import Scratch, States
from unisono.memory.versions import Versions
from unisono.values.arrays import Array


class ChunkUpdate(Protocol):
    """Runs the optimizer on one chunk in scratch memory."""

    def step(self, before: Array, after: Array, used: Array) -> None:
        """Update the chunk's scratch in place.

        Args:
            before: float64 (parameters, 1 + scalars): the scalars at the step's start; column 0 tells whether
                the parameter has a state.
            after: the same at its end; only rows whose first element lies in the chunk are written.
            used: per parameter, whether any microbatch gave it a gradient.
        """


class Optimizer(Protocol):
    """A job's optimizers with their schedules, in one process."""

    steps_done: int = 0
    """Steps that the schedules have been stepped through."""

    def initial_state(self, state: States, scalars: Mapping[int, Array]) -> None:
        """Write the state that an optimizer has before its first step, by parameter number."""

    def state_tree(self, optimizer: int) -> tuple[Any, Mapping[str, Array]]:
        """The first state of an optimizer whose state is a tree: values that JSON can hold, and arrays by name. Only
        called where there is one (see `StateSpec.tree`), as is the next."""
        raise NotImplementedError

    def bind_trees(self, trees: Mapping[int, Versions], averaged: Mapping[int, Array]) -> None:
        """Where such optimizers' states are kept, by optimizer; version t is the state after t steps. And by number
        where the parameters lie that are evaluated instead of those that are trained."""

    @abstractmethod
    def chunk_update(self, scratch: Scratch) -> ChunkUpdate:
        """An updater over scratch arrays."""

    def advance_schedule(self) -> None:
        """Step the learning-rate schedules once."""
        self.steps_done += 1

    def advance_plateau(self, loss: float, watched: float) -> None:
        """Step the schedules that follow evaluations.

        Args:
            loss: the evaluation's, of its first set.
            watched: the value that `job.best` names.
        """

    def learning_rate(self) -> float | None:
        """The first group's learning rate; None where it can't be seen."""
        return None
