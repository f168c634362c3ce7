"""An epoch cut into global batches, and a batch into microbatches: arithmetic on positions."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.errors import UsageError
from unisono.values.bounds import whole


def default_microbatches(batch_size: int) -> int:
    """How many microbatches a batch is cut into where the job does not say: a rule of its size alone, never to change.

    More of them let more workers compute. But each passes over all parameters, however few samples it holds. Dense
    layers, the worst case, take 1.5 times as long for 4 pieces of 8 samples as for 2 of 16, and 1.3 times as long for 8
    of 64 as for 2 of 256 (`benchmarks/results/microbatches.md`).

    >>> [default_microbatches(size) for size in (1, 32, 64, 256, 512)]
    [1, 2, 4, 4, 8]
    """
    if batch_size >= 8 * 64:
        return 8
    return 4 if batch_size >= 4 * 16 else min(batch_size, 2)


@dataclass(frozen=True)
class Batches:
    """How `length` samples an epoch are cut.

    Attributes:
        length: samples of an epoch.
        batch_size: samples of a global batch.
        microbatches: pieces of a batch; all have ⌈batch_size / microbatches⌉ places, filled from the left.
        drop_last: skip a short last batch.

    >>> batches = Batches(10, 4, 2, False)
    >>> batches.steps_per_epoch, batches.locate(3), [batches.positions(2, m) for m in range(2)]
    (3, (1, 0), [range(8, 10), range(10, 10)])
    """

    length: int
    batch_size: int
    microbatches: int
    drop_last: bool

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UsageError("an epoch must hold samples; the data are empty. Check the path or the filter.")
        for name, value in (("batch_size", self.batch_size), ("microbatches", self.microbatches)):
            whole(name, value)
        if self.drop_last and self.length < self.batch_size:
            raise UsageError(
                f"with drop_last=True an epoch must hold a whole batch; received {self.length} samples and "
                f"batch_size={self.batch_size}. Lower batch_size or set drop_last=False."
            )

    @property
    def microbatch_size(self) -> int:
        """Places of a microbatch (samples)."""
        return -(-self.batch_size // self.microbatches)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of an epoch."""
        whole, rest = divmod(self.length, self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, index of the batch in it) of a step; all counted from 0."""
        return divmod(step, self.steps_per_epoch)

    def positions(self, step: int, microbatch: int) -> range:
        """Positions in the epoch's order that a microbatch holds; may be empty."""
        _, index = self.locate(step)
        batch = range(self.length)[index * self.batch_size : (index + 1) * self.batch_size]
        return batch[microbatch * self.microbatch_size : (microbatch + 1) * self.microbatch_size]

    def samples(self, step: int) -> int:
        """Samples of a global batch."""
        first = self.locate(step)[1] * self.batch_size
        return min(self.batch_size, self.length - first)

    def nonempty(self, step: int) -> int:
        """Microbatches that hold samples: the first ones."""
        return -(-self.samples(step) // self.microbatch_size)
