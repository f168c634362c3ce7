"""A replica made of the shared path's own pieces in a process's private memory, for tests of what goes on around it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unisono import Job
from unisono.frameworks.protocol import Group, Measured
from unisono.frameworks.protocol.model import Model
from unisono.frameworks.pytorch.model import Adapter
from unisono.gradients.tree import FoldStep
from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.runtime.rules.folding import folding
from unisono.runtime.rules.plan import Action, Do, Plan
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import SAMPLES, WEIGHT, Shape, host_layout
from unisono.runtime.state.model_state import ModelState
from unisono.runtime.worker.buffer_average import average_buffers
from unisono.runtime.worker.partial_sums import PartialSums
from unisono.runtime.worker.update import Update

MESSAGE_BYTES = 1 << 24
"""Room for what a rank sends in one round."""


def with_replicas(job: Job) -> Job:
    """A change of a job that gives its adapter replicas, in whichever process it is made."""
    Adapter.replica = lambda self, device: PrivateReplica(self, job)  # type: ignore[method-assign,assignment]
    return job


def without_replicas(job: Job) -> Job:
    """A change of a job whose adapter has none."""
    Adapter.replica = Model.replica  # type: ignore[method-assign,assignment]
    return job


@dataclass
class Exchanged:
    """Ranks leave their sums in the store, one after another in a place of its own."""

    replica: PrivateReplica
    number: int

    def done(self) -> bool:
        return self.replica.received(self.number)


class PrivateReplica:
    """See `Replica`."""

    def __init__(self, adapter: Any, job: Job) -> None:
        self._adapter, self._job = adapter, job
        count = job.microbatches
        self._layout = host_layout(adapter.describe(), Shape(1, count, count, 0, 0, False, 1))
        self._state = HostState(self._layout, Segment.create(self._layout.segment))
        adapter.bind(self._state.parameters())
        if self._state.trees:
            adapter.bind_trees(self._state.trees, self._state.averaged())
        self._update = Update(self._state, adapter, 0, self._layout.slices(1)[0], job.clip_norm)
        self._sums: dict[int, PartialSums] = {}
        self._used = np.zeros(max(len(self._layout.description.parameters), 1), np.uint8)
        self._found: list[Measured] = []
        self._group: Group | None = None
        self._file = -1
        self._step = self._total = self._updates = 0
        self._boundaries: tuple[int, ...] = ()

    # -- state ---------------------------------------------------------------------------------------------

    def load(self, values: ModelState, updates: int) -> None:
        self._copy(values, self._state, updates)
        self._updates = updates

    def store(self, values: ModelState, updates: int) -> None:
        self._copy(self._state, values, updates)

    def _copy(self, source: ModelState, target: ModelState, updates: int) -> None:
        for there, here in zip(source.parameters(), target.parameters(), strict=True):
            here[...] = there
        for there, here in zip(source.buffers(updates), target.buffers(updates), strict=True):
            here[...] = there
        target.scalars(updates)[...] = source.scalars(updates)
        for number in self._layout.trained:
            for key, values in source.state(number).items():
                target.state(number)[key][...] = values
        for number, values in source.averaged().items():
            target.averaged()[number][...] = values
        for index, tree in source.trees.items():
            target.trees[index].write(updates, *tree.read(updates))

    # -- a round -------------------------------------------------------------------------------------------

    def begin(self, step: int, total: int) -> None:
        self._step, self._total = step, total
        self._used[:] = 0
        self._adapter.refresh(step)

    def gradient(self, batch: Any, samples: int, step: FoldStep) -> None:
        base = self._state.buffers(self._step)
        self._adapter.load_buffers(base)
        sums = self._pipe(self._group.rank if self._group else 0)
        measured = self._adapter.gradient(batch, samples, sums.destination(step, False), self._used, False)
        if base:
            sums.keep_buffers(self._adapter.live_buffers(), base, samples, step.microbatch, step.buffer)
        sums.fold(step, False)
        self._found.append(measured)

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> None:
        self._adapter.load_buffers(self._state.buffers(self._updates))
        self._found.append(self._adapter.evaluate(batch, samples, keep_outputs))

    def rows(self) -> list[Measured]:
        found, self._found = self._found, []
        return found

    def used(self) -> Any:
        return self._used

    def _pipe(self, rank: int) -> PartialSums:
        if rank not in self._sums:
            buffers = range(len(self._layout.description.buffers))
            self._sums[rank] = PartialSums(self._state, self._adapter, rank, self._layout.trained, buffers)
        return self._sums[rank]

    # -- the group -----------------------------------------------------------------------------------------

    def join(self, group: Group | None) -> None:
        assert group is not None
        self._group, self._file = group, os.open(group.store, os.O_RDWR)

    def leave(self) -> None:
        self._found = []
        if self._file >= 0:
            os.close(self._file)
        self._group, self._file = None, -1

    def exchange(self, boundaries: Sequence[int]) -> Exchanged:
        assert self._group
        self._boundaries = tuple(boundaries)
        names = self._names(self._group.rank)
        if self._group.rank == 0:
            names += [f"buffer_first/{index}" for index in range(len(self._layout.description.buffers))]
        data = pickle.dumps({name: self._state.segment[name] for name in names})
        place = self._group.rank * MESSAGE_BYTES
        os.pwrite(self._file, data, place + 16)
        os.pwrite(self._file, np.array([len(data), self._step + 1]).tobytes(), place)
        return Exchanged(self, self._step + 1)

    def _names(self, rank: int) -> list[str]:
        return [
            *(f"gradients/{rank}/{region.index}" for region in self._layout.regions), f"buffer_sums/{rank}",
            f"buffer_changed/{rank}",
        ]  # fmt: skip

    def received(self, number: int) -> bool:
        assert self._group
        places = [rank * MESSAGE_BYTES for rank in range(self._group.ranks)]
        heads = [np.frombuffer(os.pread(self._file, 16, place), np.int64) for place in places]
        if not all(head.size == 2 and head[1] == number for head in heads):
            return False
        for place, head in zip(places, heads, strict=True):
            for name, values in pickle.loads(os.pread(self._file, int(head[0]), place + 16)).items():
                self._state.segment[name][...] = values
        return True

    def update(self, weight: float, samples: int, used: Any) -> float | None:
        ranks = self._group.ranks if self._group else 1
        boundaries = self._boundaries if self._group else (0, self._job.microbatches)
        plan = Plan(self._step, boundaries, tuple(range(ranks)))
        folded, norm = folding(plan, 0, self._total), None
        self._state.segment["used"][...] = 0
        self._state.segment["used"][0] = used
        if self._job.waits_for_norms:
            self._update.publish_norms(folded.gradients, weight)
            norm = self._update.norm()
        round_, progress = Round(self._step, self._step), Words(self._state.segment, "progress")
        chunks = len(self._layout.slices(1)[0])
        self._update.apply(round_, folded.gradients, weight, Action(Do.UPDATE, 0, chunks), progress)
        totals = np.zeros(4)
        totals[WEIGHT], totals[SAMPLES] = weight, samples
        average_buffers(self._state, folded.buffers, totals, self._step)
        self._updates = self._step + 1
        return norm
