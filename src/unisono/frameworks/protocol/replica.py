"""A whole model with its optimizer on a device that one process owns: private, and updated unsliced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from unisono.frameworks.protocol.measured import Measured
from unisono.gradients.tree import FoldStep
from unisono.memory.versions import Versions
from unisono.values.arrays import Array


class Values(Protocol):
    """A whole model in the host's memory, a view of each array (see `ModelState`)."""

    @property
    def trees(self) -> Mapping[int, Versions]:
        """The optimizers' states that are trees, by optimizer."""

    def parameters(self) -> list[Array]:
        """Every parameter by number."""

    def buffers(self, updates: int) -> list[Array]:
        """Every buffer after so many updates."""

    def scalars(self, updates: int) -> Array:
        """The optimizers' numbers after so many updates: a row a parameter."""

    def state(self, number: int) -> dict[str, Array]:
        """A parameter's optimizer state by key."""

    def averaged(self) -> dict[int, Array]:
        """The parameters that are evaluated and saved instead of those that are trained, by number."""


@dataclass(frozen=True)
class Group:
    """Processes that exchange sums.

    Attributes:
        name: nobody else's, ever.
        rank, ranks: this one's place, and how many there are.
        store: a file, empty at first, through which they find each other.
    """

    name: str
    rank: int
    ranks: int
    store: str


class ExchangeLost(Exception):
    """An exchange can't be completed: one of the group's processes is gone, or has left."""


class Pending(Protocol):
    """An exchange that was begun."""

    def done(self) -> bool:
        """Whether this process has all sums; does not block.

        Raises:
            ExchangeLost: it can't be completed any more.
        """


class Replica(Protocol):
    """One process's model on its device. Only `rows`, `load`, `store`, `parameters` and `update` wait for the device,
    and none for another process."""

    def load(self, values: Values, updates: int) -> None:
        """Take the state after so many updates."""

    def store(self, values: Values, updates: int) -> None:
        """Leave the state after so many updates."""

    def parameters(self) -> list[Array]:
        """Every parameter by number, as it is trained, in the host's memory: for a look at it, as it is now."""

    def begin(self, step: int, total: int) -> None:
        """A round of training begins: its step, and its microbatches that are not empty."""

    def gradient(self, batch: Any, samples: int, step: FoldStep) -> None:
        """Compute a microbatch, and fold it into this process's partial sums."""

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> None:
        """Compute a microbatch without gradients, in evaluation mode."""

    def rows(self) -> list[Measured]:
        """What the microbatches since the last call gave, in their order, in one transfer.

        Raises:
            JobError: one gave what it may not.
        """

    def used(self) -> Array:
        """Per parameter, whether one of the round's microbatches here gave it a gradient."""

    def join(self, group: Group | None) -> None:
        """Begin to join a group; None = this process is alone."""

    def exchange(self, boundaries: Sequence[int]) -> Pending:
        """Begin to exchange this round's partial sums with the ranks of the group, of which rank k has folded
        microbatches boundaries[k] … boundaries[k+1]−1."""

    def update(self, weight: float, samples: int, used: Array) -> float | None:
        """Update the replica from the round's sums, and wait until the device has done so.

        Args:
            weight: the global weight that the gradient is divided by; 0 = there is no gradient.
            samples: of the round.
            used: per parameter, whether any microbatch gave it a gradient.

        Returns:
            The global gradient norm, where the job clips it.

        Raises:
            JobError: a gradient is not finite; the replica is as it was.
        """

    def leave(self) -> None:
        """Give up the exchange at hand and the group."""
