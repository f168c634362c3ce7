"""The shared segment of a host as it is laid out: sizes of the world, and which areas there are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from unisono.frameworks.protocol import ModelDescription, TensorSpec, regions_of
from unisono.gradients.norms import NormTable
from unisono.gradients.regions import Chunk, Region, slices
from unisono.memory.segment import SegmentLayout, aligned
from unisono.runtime.rules.folding import ALL_HOSTS
from unisono.runtime.rules.generations import ReplicaWords
from unisono.runtime.rules.plan import SlotWords
from unisono.runtime.state.control import HANDED, Control
from unisono.runtime.state.optimizer_vectors import StateVector, vectors_of

MEBI = 1 << 20
RECORDS = 256
"""Rounds that a slow supervisor may lag behind before workers wait for it."""
RECORD_BYTES = 64 * 1024
DIGEST_BYTES = 24
"""Of a record, for the digest of one parameter."""
EVENT_BYTES = 256
"""Of a record, for the timeline of one microbatch."""
ENTRY_BYTES = 256 * MEBI
"""Address space (not memory) for one microbatch's samples."""
ROUNDS_AHEAD = 3
"""Rounds whose samples are held: the one at work and those being read."""
FLOATING = ("float16", "float32", "float64")
TREE_BYTES = 4 << 30
"""Address space (not memory) for one version of an optimizer's state that may grow, besides the model's size."""
TREE_TIMES = 64
"""Of such a state, times the model's size."""
ACTION = 4
"""Column of the words of what slots compute: not 0 while a worker with a replica carries an action out."""
SECOND = "second/"
"""Before the names of areas of the second copy of a model, where workers have replicas."""
MEMBERS = 1 << 16
"""Entries of the tables by member number, used round and round."""

LOSS, WEIGHT, SAMPLES, SECONDS, METRICS = 0, 1, 2, 3, 4
"""Columns of the table of microbatches; metrics are pairs (sum, count) from METRICS on."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the world and of what microbatches report.

    Attributes:
        slots: slots that the run begins with.
        most: slots that it may ever have: the non-empty microbatches of a batch.
        microbatches: pieces of a batch.
        metrics: metric functions.
        evaluation_times: how often the run evaluates.
        object_metrics: whether evaluation outputs are kept for metric objects.
        loaders: loader processes.
        stages: slots of a pipe in a training round.
        replicas: whether workers have replicas of the model, on devices of their own.
    """

    slots: int
    most: int
    microbatches: int
    metrics: int
    evaluation_times: int
    object_metrics: bool
    loaders: int
    stages: int = 1
    replicas: bool = False

    @property
    def passes(self) -> int:
        """What distinguishes the words of two rounds that count microbatches handed over."""
        return self.microbatches + 1


@dataclass(frozen=True)
class HostLayout:
    """The plan of the shared segment, the same value in every process of the host."""

    description: ModelDescription
    shape: Shape
    regions: tuple[Region, ...]
    vectors: tuple[tuple[StateVector, ...], ...]
    gradient_buffers: int
    segment: SegmentLayout = field(repr=False)
    stage_of: tuple[int, ...] = ()
    """The stage of each parameter, where a stage is updated before the ones before it have summed."""
    _slices: dict[int, list[list[Chunk]]] = field(init=False, default_factory=dict, repr=False)

    def slices(self, slots: int) -> list[list[Chunk]]:
        """What each slot of a world updates."""
        if slots not in self._slices:
            self._slices[slots] = slices(self.regions, slots, self.shape.stages, self.stage_of)
        return self._slices[slots]

    def due(self, slots: int, slot: int) -> tuple[int, ...]:
        """How many of a slot's chunks may be updated once all slots of a stage and of later ones have summed."""
        stages, chunks = range(self.shape.stages), self.slices(slots)[slot]
        return tuple(sum(chunk.stage >= stage for chunk in chunks) for stage in stages)

    @property
    def norms(self) -> NormTable:
        """Where block norms lie."""
        return NormTable(self.regions)

    @property
    def ring(self) -> int:
        """Entries of the ring of microbatch samples."""
        return ROUNDS_AHEAD * self.shape.microbatches

    @property
    def rounds_at_once(self) -> int:
        """In how many rounds processes may be that read each other's: a replica may be one ahead of others."""
        return 2 if self.shape.replicas else 1

    def outputs(self, round: int, microbatch: int) -> str:
        """Where an evaluation's outputs lie for metric objects."""
        return f"outputs/{round % self.rounds_at_once}/{microbatch}"

    @property
    def trained(self) -> list[int]:
        """The numbers of the parameters that an optimizer updates."""
        return [number for number, owner in enumerate(self.description.owners) if owner is not None]


def averaged_places(buffers: tuple[TensorSpec, ...]) -> list[slice]:
    """Where each buffer lies among those that are averaged over samples, which are the floating-point ones.

    >>> averaged_places((TensorSpec("mean", (3,), "float32"), TensorSpec("count", (), "int64")))
    [slice(0, 3, None), slice(3, 3, None)]
    """
    places, at = [], 0
    for spec in buffers:
        places.append(slice(at, at + (math.prod(spec.shape) if spec.dtype in FLOATING else 0)))
        at = places[-1].stop
    return places


def host_layout(description: ModelDescription, shape: Shape) -> HostLayout:
    """Describe the shared segment of a host.

    Args:
        description: the model.
        shape: the world's sizes.
    """
    regions = regions_of(description)
    vectors = tuple(vectors_of(region, description) for region in regions)
    buffers = 2 * max(shape.microbatches - 1, 1).bit_length() + 1
    layout = HostLayout(description, shape, regions, vectors, buffers, SegmentLayout())
    _add_words(layout)
    _add_tables(layout)
    _add_model(layout)
    _add_sums(layout)
    _add_passed_on(layout)
    if shape.replicas:
        _add_replicas(layout)
    return layout


def _add_words(layout: HostLayout) -> None:
    """By which processes speak to each other."""
    shape, add = layout.shape, layout.segment.add
    for name in (*SlotWords._fields, *HANDED, "backward_progress", "computing"):
        add(name, "int64", (shape.most, 8))
    add("control", "int64", (Control.COUNT, 8))
    add("ready", "int64", (layout.ring, 8))
    add("reading", "int64", (shape.loaders, 8))
    add("plans", "int64", (2, 9 + 3 * shape.most))
    add("host_shares", "int64", (3 + 2 * shape.most,))
    add("seats", "int64", (shape.most,))
    for name in ("heirs", "joined"):
        add(name, "int64", (MEMBERS,))


def _add_tables(layout: HostLayout) -> None:
    """What a round says of itself."""
    shape, add = layout.shape, layout.segment.add
    count, columns = len(layout.description.parameters), METRICS + 2 * shape.metrics
    add("pace", "float64", (shape.most,))
    add("profile", "float64", (2,))
    add("used", "uint8", (shape.most + 1, max(count, 1)))  # the last row: other hosts
    add("table", "float64", (shape.microbatches, columns))
    add("totals", "float64", (2, columns))
    for name in ("losses", "watched"):
        add(name, "float64", (max(shape.evaluation_times, 1),))
    add("norms", "float64", (max(layout.norms.length, 1),))
    add("record_lengths", "int64", (shape.most, RECORDS))
    record = RECORD_BYTES + DIGEST_BYTES * count + EVENT_BYTES * shape.microbatches
    add("records", "uint8", (shape.most, RECORDS, record))


def _add_replicas(layout: HostLayout) -> None:
    """Words of replicas, the second copy of their state, and what of rounds two may be at work on at once."""
    shape, add = layout.shape, layout.segment.add
    for name in ReplicaWords._fields:
        add(name, "int64", (MEMBERS, 8))
    add("copies", "int64", (2, 8))
    add("generations", "int64", (2, 8 + 2 * shape.most))
    columns = METRICS + 2 * shape.metrics
    add("tables", "float64", (2, shape.microbatches, columns))
    add("marks", "uint8", (2, shape.most, max(len(layout.description.parameters), 1)))
    add("copied_totals", "float64", (2, 2, columns))
    _add_model(layout, SECOND)


def _add_model(layout: HostLayout, prefix: str = "") -> None:
    """Parameters, buffers and the optimizers' state."""
    description = layout.description

    def add(name: str, dtype: str, shape: tuple[int, ...]) -> None:
        layout.segment.add(prefix + name, dtype, shape)

    scalars = 1 + max((len(state.scalars) for state in description.states), default=0)
    add("scalars", "float64", (2, max(len(description.parameters), 1), scalars))
    for region in layout.regions:
        add(f"parameters/{region.index}", region.dtype, (region.length,))
        for vector in layout.vectors[region.index]:
            add(vector.area, vector.dtype, (vector.length,))
        if description.states[region.optimizer].averaged:
            add(f"averaged/{region.index}", region.dtype, (region.length,))
    size = TREE_BYTES + TREE_TIMES * sum(_bytes(region.dtype, region.length) for region in layout.regions)
    for index, state in enumerate(description.states):
        for parity in range(2 if state.tree else 0):
            add(f"tree/{index}/{parity}", "uint8", (size,))
    for number, (spec, owner) in enumerate(zip(description.parameters, description.owners, strict=True)):
        if owner is None:
            add(f"frozen/{number}", spec.storage, spec.shape)
    for index, spec in enumerate(description.buffers):
        for parity in range(2):
            add(f"buffer/{index}/{parity}", spec.storage, spec.shape)


def _add_sums(layout: HostLayout) -> None:
    """Partial sums, and old values while a chunk is updated."""
    shape, description, add = layout.shape, layout.description, layout.segment.add
    averaged = averaged_places(description.buffers)[-1:]
    for pipe in (ALL_HOSTS, *range(shape.most // shape.stages)):  # its stages share them: each parameter is in one
        held = 1 if pipe == ALL_HOSTS else layout.gradient_buffers
        for region in layout.regions:
            add(f"gradients/{pipe}/{region.index}", region.dtype, (held, region.length))
        add(f"buffer_sums/{pipe}", "float64", (held, max(averaged[0].stop if averaged else 0, 1)))
        add(f"buffer_changed/{pipe}", "float64", (held, max(len(description.buffers), 1)))
    scratch = max(_scratch_bytes(region, layout.vectors[region.index]) for region in layout.regions)
    for slot in range(shape.most):
        add(f"scratch/{slot}", "uint8", (scratch,))
    for index, spec in enumerate(description.buffers):
        add(f"buffer_first/{index}", spec.storage, spec.shape)


def _add_passed_on(layout: HostLayout) -> None:
    """Samples from loaders, what crosses between stages, and outputs for metric objects."""
    shape = layout.shape
    names = [f"samples/{entry}" for entry in range(layout.ring)]
    for microbatch in range(shape.microbatches):
        names += [f"{way}/{stage}/{microbatch}" for way in ("forward", "backward") for stage in range(shape.stages - 1)]
        rounds = range(layout.rounds_at_once if shape.object_metrics else 0)
        names += [layout.outputs(round, microbatch) for round in rounds]
    for name in names:
        layout.segment.add(name, "uint8", (ENTRY_BYTES,))


def _scratch_bytes(region: Region, vectors: tuple[StateVector, ...]) -> int:
    """Address space for any chunk of a region, however large its units are; untouched pages cost nothing."""
    return 2 * _bytes(region.dtype, region.length) + sum(_bytes(vector.dtype, vector.length) for vector in vectors)


def _bytes(dtype: str, length: int) -> int:
    return aligned(length * np.dtype(dtype).itemsize)
