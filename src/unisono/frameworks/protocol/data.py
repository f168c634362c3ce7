"""A framework's data: how samples become a microbatch, how its tensors travel, what must be seeded and held still."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from unisono.frameworks.pairs import stacked
from unisono.memory.packing import Reducers
from unisono.memory.spans import Views
from unisono.values.arrays import Array


class DataFunctions(Protocol):
    """What the core asks of a framework's data module, whose class `Data` is one; made without arguments."""

    TENSORS: tuple[type, ...] = ()
    """The framework's classes of arrays."""

    QUIET: tuple[type, ...] = (list, tuple, range, np.ndarray)
    """Data whose indexing draws no random number: nothing to seed before each sample."""

    @staticmethod
    def to_array(tensor: Any) -> tuple[Array, str] | None:
        """A tensor's values as an array of NumPy, and what else `from_array` has to know; None where it is more than
        that, and travels as it says itself."""
        return np.asarray(tensor), ""

    @staticmethod
    def from_array(array: Array, kind: str) -> Any:
        """What stands for the tensor after its journey, in memory of its own."""
        return array

    def reducers(self) -> Reducers:
        """How tensors travel between this host's processes: as arrays whose bytes travel out of band."""

        def reduce(tensor: Any) -> Any:
            found = self.to_array(tensor)
            return tensor.__reduce_ex__(5) if found is None else (self.from_array, found)

        return dict.fromkeys(self.TENSORS, reduce)

    @staticmethod
    def views() -> Views:
        """How tensors that may be views of a larger memory are seen, so that a job's travel by what they hold."""
        return {}

    @staticmethod
    def seed_everything(number: int) -> None:
        """Seed this process's default generators: before a sample, a collate or a forward pass."""
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)

    def seed_model(self, seed: int) -> None:
        """Seed what a model's first values may be drawn from."""
        self.seed_everything(seed)

    def settings(self) -> Mapping[str, Any]:
        """What a script may have set for its whole process and results depend on, as plain values."""
        return {}

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Set it as it was in another process."""

    def pin(self, threads: int) -> None:
        """Fix the number of threads that this process computes with; called before its first computation."""

    def opened(self, data: Any) -> Any:
        """Data in the framework's own form (a `tf.data.Dataset`, say) as a sequence; anything else as it is."""
        return data

    def draws_randomness(self, data: Any) -> bool:
        """Whether indexing these data may draw random numbers: anything but the plain containers may."""
        return type(data) not in self.QUIET

    def gather(self, data: Any, indices: Sequence[int]) -> Any:
        """All samples at once where that gives the bits of stacking them one by one, else None."""
        return None

    def collate(self, samples: Sequence[Any], indices: Sequence[int]) -> Any:
        """Stack (inputs, targets) pairs; raises JobError that names the sample that does not fit."""
        return stacked(samples, indices, self.stack)

    @abstractmethod
    def stack(self, column: Sequence[Any]) -> Any:
        """All samples' inputs, or all targets, as one batch, in the framework's own way; None where none has any."""
