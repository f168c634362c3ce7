"""The shared state of one host: which areas the segment has, and typed views of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from unisono.frameworks.protocol import Array, ModelDescription, TensorSpec
from unisono.gradients.norms import NormTable
from unisono.gradients.regions import Chunk, Region, slices
from unisono.memory.segment import Segment, SegmentLayout, aligned

MEBI = 1 << 20
RECORDS = 256
"""Rounds that a slow supervisor may lag behind before workers wait for it."""
RECORD_BYTES = 64 * 1024
ENTRY_BYTES = 256 * MEBI
"""Address space (not memory) for one microbatch's samples."""
ROUNDS_AHEAD = 3
"""Rounds whose samples are held: the one at work and those being read."""
FLOATING = ("float16", "float32", "float64")


@dataclass(frozen=True)
class StatePlace:
    """Where a parameter's state tensor lies in its key's vector (elements)."""

    offset: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The element after its last."""
        return self.offset + int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class StateVector:
    """One state key of one region: a flat vector, congruent with the parameters when elementwise."""

    area: str
    key: str
    dtype: str
    length: int
    places: Mapping[int, StatePlace]


@dataclass(frozen=True)
class Shape:
    """Sizes of the world and of what microbatches report."""

    slots: int
    microbatches: int
    metrics: int
    evaluations: int
    object_metrics: bool


@dataclass(frozen=True)
class HostLayout:
    """The plan of the shared segment, the same value in every process of the host."""

    description: ModelDescription
    shape: Shape
    regions: tuple[Region, ...]
    vectors: tuple[tuple[StateVector, ...], ...]
    scalars: int
    slices: tuple[tuple[Chunk, ...], ...]
    gradient_buffers: int
    segment: SegmentLayout = field(repr=False)

    @property
    def norms(self) -> NormTable:
        """Where block norms lie."""
        return NormTable(self.regions)

    @property
    def ring(self) -> int:
        """Entries of the ring of microbatch samples."""
        return ROUNDS_AHEAD * self.shape.microbatches


def _regions(description: ModelDescription) -> tuple[Region, ...]:
    keys = sorted({(owner, spec.dtype) for owner, spec in zip(description.owners, description.parameters, strict=True)
                   if owner is not None})  # fmt: skip
    regions = []
    for index, (owner, dtype) in enumerate(keys):
        members = [
            (number, spec.name, spec.shape)
            for number, (spec, owned) in enumerate(zip(description.parameters, description.owners, strict=True))
            if owned == owner and spec.dtype == dtype
        ]
        regions.append(Region.pack(index, dtype, owner, description.kinds[owner], members))
    return tuple(regions)


def _vectors(region: Region, description: ModelDescription) -> tuple[StateVector, ...]:
    vectors = []
    members = {parameter.number: parameter for parameter in region.parameters}
    for key, shapes in description.states[region.optimizer].vectors.items():
        held = {number: shape for number, shape in shapes.items() if number in members}
        if not held:
            continue
        dtype = next(iter(held.values()))[1]
        congruent = all(shape == members[number].shape for number, (shape, _) in held.items())
        if congruent and len(held) == len(members):
            places = {n: StatePlace(p.offset, p.shape) for n, p in members.items()}
            length = region.length
        else:
            packed = Region.pack(0, dtype, 0, "tensor", [(n, "", held[n][0]) for n in members if n in held])
            places = {p.number: StatePlace(p.offset, p.shape) for p in packed.parameters}
            length = packed.length
        vectors.append(StateVector(f"state/{region.index}/{key}", key, dtype, length, places))
    return tuple(vectors)


def vector_span(vector: StateVector, region: Region, chunk: Chunk) -> slice:
    """The part of a state vector that belongs to a chunk."""
    if region.kind == "elementwise":
        return slice(chunk.start, chunk.stop)
    held = [vector.places[p.parameter.number] for p in chunk.pieces if p.parameter.number in vector.places]
    return slice(held[0].offset, held[-1].end) if held else slice(0, 0)


def scratch_bytes(chunk: Chunk, region: Region, vectors: tuple[StateVector, ...]) -> int:
    """Scratch of one chunk: parameters, gradients and state, each on a 64-byte boundary."""
    item = np.dtype(region.dtype).itemsize
    total = 2 * aligned((chunk.stop - chunk.start) * item)
    for vector in vectors:
        span = vector_span(vector, region, chunk)
        total += aligned((span.stop - span.start) * np.dtype(vector.dtype).itemsize)
    return total


def host_layout(description: ModelDescription, shape: Shape) -> HostLayout:
    """Describe the shared segment of a host.

    Args:
        description: the model.
        shape: the world's sizes.
    """
    regions = _regions(description)
    vectors = tuple(_vectors(region, description) for region in regions)
    parts = tuple(tuple(part) for part in slices(regions, shape.slots))
    scalars = 1 + max((len(state.scalars) for state in description.states), default=0)
    buffers = 2 * max(shape.microbatches - 1, 1).bit_length() + 1
    layout = HostLayout(description, shape, regions, vectors, scalars, parts, buffers, SegmentLayout())
    add = layout.segment.add
    slots, count = shape.slots, len(description.parameters)
    for name in ("summed", "normed", "progress", "committed"):
        add(name, "int64", (slots, 8))
    add("control", "int64", (4, 8))
    add("ready", "int64", (layout.ring, 8))
    add("plans", "int64", (2, 8 + slots))
    add("used", "uint8", (slots, max(count, 1)))
    add("table", "float64", (shape.microbatches, 4 + 2 * shape.metrics))
    add("totals", "float64", (max(shape.evaluations, 1), 4 + 2 * shape.metrics))
    add("norms", "float64", (max(layout.norms.length, 1),))
    add("scalars", "float64", (2, max(count, 1), scalars))
    add("record_lengths", "int64", (slots, RECORDS))
    add("records", "uint8", (slots, RECORDS, RECORD_BYTES))
    for region in regions:
        add(f"parameters/{region.index}", region.dtype, (region.length,))
        for vector in vectors[region.index]:
            add(vector.area, vector.dtype, (vector.length,))
    for number, (spec, owner) in enumerate(zip(description.parameters, description.owners, strict=True)):
        if owner is None:
            add(f"frozen/{number}", spec.storage, spec.shape)
    for index, spec in enumerate(description.buffers):
        for parity in range(2):
            add(f"buffer/{index}/{parity}", spec.storage, spec.shape)
    for slot in range(slots):
        for region in regions:
            add(f"gradients/{slot}/{region.index}", region.dtype, (buffers, region.length))
        biggest = max((scratch_bytes(c, regions[c.region], vectors[c.region]) for c in parts[slot]), default=0)
        add(f"scratch/{slot}", "uint8", (max(biggest, 1),))
        add(f"buffer_sums/{slot}", "float64", (buffers, max(averaged_elements(description.buffers), 1)))
        add(f"buffer_changed/{slot}", "float64", (buffers, max(len(description.buffers), 1)))
    for index, spec in enumerate(description.buffers):
        add(f"buffer_first/{index}", spec.storage, spec.shape)
    for entry in range(layout.ring):
        add(f"samples/{entry}", "uint8", (ENTRY_BYTES,))
    if shape.object_metrics:
        for microbatch in range(shape.microbatches):
            add(f"outputs/{microbatch}", "uint8", (ENTRY_BYTES,))
    return layout


def averaged_elements(buffers: tuple[TensorSpec, ...]) -> int:
    """Elements of the floating-point buffers: those that are averaged over samples."""
    return sum(int(np.prod(spec.shape, dtype=np.int64)) for spec in buffers if spec.dtype in FLOATING)


class HostState:
    """Typed views of the shared segment."""

    def __init__(self, layout: HostLayout, segment: Segment) -> None:
        self.layout = layout
        self.segment = segment

    def parameter(self, number: int) -> Array:
        """A parameter's elements, in its shape."""
        if self.layout.description.owners[number] is None:
            return self.segment[f"frozen/{number}"]
        region, place = self._place(number)
        return self.segment[f"parameters/{region}"][place.offset : place.end].reshape(place.shape)

    def _place(self, number: int) -> tuple[int, StatePlace]:
        for region in self.layout.regions:
            for parameter in region.parameters:
                if parameter.number == number:
                    return region.index, StatePlace(parameter.offset, parameter.shape)
        raise KeyError(number)

    def parameters(self) -> list[Array]:
        """Every parameter by number."""
        return [self.parameter(number) for number in range(len(self.layout.description.parameters))]

    def buffers(self, parity: int) -> list[Array]:
        """Every buffer; `parity` is that of the number of steps done."""
        return [self.segment[f"buffer/{index}/{parity}"] for index in range(len(self.layout.description.buffers))]

    def state(self, number: int) -> dict[str, Array]:
        """A parameter's optimizer state by key."""
        region, _ = self._place(number)
        return {
            vector.key: self.segment[vector.area][place.offset : place.end].reshape(place.shape)
            for vector in self.layout.vectors[region]
            if (place := vector.places.get(number)) is not None
        }

    def saved(self, steps_done: int) -> tuple[dict[str, Array], dict[str, str]]:
        """What the final file holds: arrays and dtype names by `state_dict()` name."""
        description = self.layout.description
        arrays, dtypes = {}, {}
        buffers = self.buffers(steps_done & 1)
        for source in description.saved:
            if source.kind == "buffer":
                arrays[source.name] = buffers[source.index]
                dtypes[source.name] = description.buffers[source.index].dtype
            else:
                arrays[source.name] = self.parameter(source.index)
                dtypes[source.name] = description.parameters[source.index].dtype
        return arrays, dtypes
