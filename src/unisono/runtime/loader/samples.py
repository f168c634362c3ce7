"""Reading the samples of microbatches: ahead of need by loader processes, or on the spot in debug mode."""

from __future__ import annotations

import pickle
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from unisono.errors import UsageError
from unisono.errors.failure import Failure, PlacedError, WorkerFailed, failure
from unisono.frameworks.protocol import Array, DataFunctions
from unisono.job import Job
from unisono.memory.packing import Reducers, dumps, pack, unpack
from unisono.memory.words import Words
from unisono.partition.keys import key
from unisono.partition.order import epoch_order
from unisono.runtime.rules.plan import Plan, is_over
from unisono.runtime.rules.rounds import Program, Round
from unisono.runtime.state.host_shares import HostShares
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import ROUNDS_AHEAD, HostLayout


@dataclass
class Datasets:
    """The opened data of a job: training sequence and named evaluation sequences."""

    training: Any
    evaluation: Mapping[str, Any]


class RemoteData(ABC):
    """A sequence whose samples another host reads; indexing it draws no random number here."""

    @abstractmethod
    def samples(self, indices: Sequence[int], key_of: Callable[[int], int] | None) -> list[Any]:
        """See `samples_at`."""


def _nothing(index: int) -> None:
    """Nobody wants to know."""


def samples_at(
    data: Any, indices: Sequence[int], key_of: Callable[[int], int] | None, functions: DataFunctions,
    begun: Callable[[int], None] = _nothing,
) -> list[Any]:  # fmt: skip
    """Samples, each a pure function of its index and its key.

    Args:
        data: where they are.
        indices: which.
        key_of: index → what to seed the generators with before it, where indexing may draw random numbers.
        functions: the framework's.
        begun: hears which is about to be read.

    Raises:
        PlacedError: one could not be read.
    """
    if isinstance(data, RemoteData):
        return data.samples(indices, key_of)
    key_of = key_of if functions.draws_randomness(data) else None
    samples = []
    for index in indices:
        begun(index)
        try:
            if key_of is not None:
                functions.seed_everything(key_of(index))
            samples.append(data[index])
        except Exception as error:
            raise PlacedError(error, f"sample {index}") from error
    return samples


def collated(job: Job, functions: DataFunctions, samples: Sequence[Any], indices: Sequence[int]) -> Any:
    """Samples as a microbatch, by the job's collate or the framework's."""
    return functions.collate(samples, indices) if job.collate is None else job.collate(samples)


@dataclass
class Example:
    """() → the (inputs, targets) of the first samples of the data, as many as a microbatch has; read once.

    Args:
        job: the job.
        data: its data.
        functions: the framework's.
    """

    job: Job
    data: Datasets | None
    functions: DataFunctions
    packed: bytes | None = None

    def __call__(self) -> Any:
        if self.data is None:
            return pickle.loads(self.packed or b"")
        self.functions.seed_everything(key(self.job.seed, "example"))
        training = self.data.training
        indices = range(min(len(training), -(-self.job.batch_size // self.job.microbatches)))
        samples = samples_at(training, indices, None, self.functions)
        batch = collated(self.job, self.functions, samples, indices)
        self.packed = dumps(batch, self.functions.reducers())
        self.data = None  # whoever is forked later must not read through what is open here
        return batch

    def read(self) -> bytes | None:
        """It, packed; None if it could not be had: the first step says so, with its place."""
        if self.packed is None:
            with suppress(Exception):
                self()
        return self.packed


@dataclass
class SampleReader:
    """Reads one microbatch: a pure function of (job, round, microbatch).

    Attributes:
        begun: hears which sample is about to be read.
    """

    job: Job
    program: Program
    data: Datasets
    functions: DataFunctions
    begun: Callable[[int], None] = _nothing
    _epoch: int = field(init=False, default=-1)
    _order: Array | Sequence[int] = field(init=False, default=())

    def read(self, round_: Round, microbatch: int) -> Any:
        """The (inputs, targets) of a microbatch."""
        positions = self.program.positions(round_, microbatch)
        if round_.evaluation is None:
            epoch, _ = self.program.batches.locate(round_.step)
            if epoch != self._epoch:
                self._order = self._epoch_order(epoch)
                self._epoch = epoch
            indices = [int(i) for i in self._order[positions.start : positions.stop]]
            return self._collate(self.data.training, indices, ("sample", epoch), ("collate", round_.step), microbatch)
        name = self.program.evaluations[round_.evaluation].name
        place = ("evaluation", name)
        return self._collate(self.data.evaluation[name], list(positions), place, (*place, round_.wave), microbatch)

    def _epoch_order(self, epoch: int) -> Array:
        order = epoch_order(self.job.order, len(self.data.training), self.job.seed, epoch)
        if order.size != self.program.batches.length:
            raise UsageError(
                f"job.order must return as many indices each epoch; received {self.program.batches.length} in the "
                f"first and {order.size} in epoch {epoch + 1}."
            )
        return order

    def _collate(
        self,
        data: Any,
        indices: list[int],
        sample_place: tuple[Any, ...],
        batch_place: tuple[Any, ...],
        microbatch: int,
    ) -> Any:
        seed = self.job.seed
        if self.job.collate is None and (batch := self.functions.gather(data, indices)) is not None:
            return batch
        samples = samples_at(data, indices, lambda index: key(seed, *sample_place, index), self.functions, self.begun)
        if self.job.collate is None:
            return self.functions.collate(samples, indices)
        self.functions.seed_everything(key(seed, *batch_place, microbatch))
        try:
            return self.job.collate(samples)
        except Exception as error:
            raise PlacedError(error, f"collate of samples {indices[0]}…{indices[-1]}") from error


@dataclass
class Ring:
    """Microbatches of the next rounds in shared memory, each read once whoever computes it.

    A microbatch's entry is given free when its round is committed: until then a successor may need it again.
    """

    layout: HostLayout
    segment: Any
    ready: Words
    reducers: Reducers

    def _entry(self, round_: Round, microbatch: int) -> tuple[int, int]:
        number = round_.number * self.layout.shape.microbatches + microbatch
        return number % self.layout.ring, number + 1

    def put(self, round_: Round, microbatch: int, value: Any) -> None:
        """Publish a microbatch, or the failure to read it."""
        entry, number = self._entry(round_, microbatch)
        pack(value, self.segment[f"samples/{entry}"], self.reducers)
        self.ready.publish(entry, number)

    def has(self, round_: Round, microbatch: int) -> bool:
        """Whether a microbatch is there."""
        entry, number = self._entry(round_, microbatch)
        return self.ready.get(entry) >= number

    def get(self, round_: Round, microbatch: int) -> Any:
        """Wait for a microbatch and take a private copy of it."""
        entry, number = self._entry(round_, microbatch)
        self.ready.wait(entry, number)
        return unpack(self.segment[f"samples/{entry}"])


def load_ahead(reader: SampleReader, program: Program, ring: Ring, state: HostState, share: tuple[int, int]) -> None:
    """A loader's life: read its share of this host's microbatches, as far ahead as the ring allows.

    A successor leaves alone what is there already; other shares of the hosts make it look again at the rounds ahead.

    Args:
        reader: reads one microbatch.
        program: the run's rounds.
        ring: where they go.
        state: the host's shared state.
        share: (i, n): this loader reads every n-th microbatch, beginning with the i-th.
    """
    index, loaders = share
    committed, at = Words(state.segment, "committed"), state.segment["reading"]
    shares = HostShares(state)

    def begun(sample: int) -> None:
        at[index, 1] = sample + 1

    reader.begun = begun
    at[index, :3] = 0, 0, 1
    while True:
        plan = state.plans.in_force()
        if plan is None:
            time.sleep(0.001)
            continue
        if plan.round >= program.rounds:
            return
        for number, microbatch in _ahead(program, plan, shares):
            round_ = program.at(number)
            if (number + microbatch) % loaders != index or ring.has(round_, microbatch):
                continue
            at[index, :2] = number << 32 | microbatch + 1, 0
            try:
                ring.put(round_, microbatch, reader.read(round_, microbatch))
            except Exception as error:
                ring.put(round_, microbatch, failure(error, f"step {round_.step + 1}, microbatch {microbatch}"))
                return
            at[index, 0] = 0
            at[index, 2] += 1
            if is_over(plan, committed.get):
                break

        def is_replaced(plan: Plan = plan) -> bool:
            return state.plans.in_force() != plan

        for slot in range(plan.slots):
            if not committed.wait(slot, plan.round + 1, is_replaced):
                break


def _ahead(program: Program, plan: Plan, shares: HostShares) -> Iterator[tuple[int, int]]:
    """(round, microbatch) of what this host needs soon, as far as the present shares tell."""
    for number in range(plan.round, min(plan.round + ROUNDS_AHEAD, program.rounds)):
        round_ = program.at(number)
        hosts = plan.hosts if number == plan.round else shares.of_round(round_.evaluation is None)
        run = shares.own(hosts)
        for microbatch in range(run.start, min(run.stop, program.nonempty(round_))):
            yield number, microbatch


def taken(value: Any) -> Any:
    """A microbatch as the ring gave it; raises the loader's failure."""
    if isinstance(value, Failure):
        raise WorkerFailed(value)
    return value
