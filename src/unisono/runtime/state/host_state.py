"""The shared state of one host: which areas the segment has, and typed views of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unisono.checkpoint.parameters import Tensors
from unisono.errors import UsageError
from unisono.frameworks.protocol import Array, ModelDescription, TensorSpec
from unisono.gradients.norms import NormTable
from unisono.gradients.regions import Chunk, Region, slices
from unisono.memory.segment import Segment, SegmentLayout, aligned
from unisono.memory.versions import Versions
from unisono.memory.words import Words, fence
from unisono.runtime.rules.folding import ALL_HOSTS
from unisono.runtime.rules.plan import Plan, SlotWords
from unisono.values.untrusted import Malformed, check, parsed

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
MOST_NESTED = 900
"""Lists within each other in the text of such a state: what Python itself can write."""
MEMBERS = 1 << 16
"""Entries of the tables by member number, used round and round."""

HANDED = ("forwarded", "returned")
"""Words of how many microbatches a stage has handed to the next one and to the one before."""

LOSS, WEIGHT, SAMPLES, SECONDS, METRICS = 0, 1, 2, 3, 4
"""Columns of the table of microbatches; metrics are pairs (sum, count) from METRICS on."""


class Control:
    """Words by which the supervisor speaks to the workers."""

    STOP = 0  # not 0: the next plan says stop; with several hosts why (see `Shutdown.word`)
    DRAINED = 1  # rounds whose records were read
    COPIED = 2  # rounds whose copy was made
    ASKED = 3  # copies asked for so far
    DEATHS = 4  # heirs named so far
    END = 5  # rounds − 1 … : the run ends at the copy of this round minus one
    SEATS = 6  # how many seats there are
    EXCHANGED = 7  # rounds whose sums over all hosts are here
    WHOLE = 8  # 1: sums may not be sent to other hosts before they are whole
    COUNT = 9


@dataclass(frozen=True)
class StatePlace:
    """Where a parameter's state tensor lies in its key's vector (elements)."""

    offset: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """The element after its last."""
        return self.offset + math.prod(self.shape)


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
    """Sizes of the world and of what microbatches report.

    Attributes:
        slots: slots that the run begins with.
        most: slots that it may ever have: the non-empty microbatches of a batch.
        microbatches: pieces of a batch.
        metrics: metric functions.
        evaluations: evaluation sets.
        evaluation_times: how often the run evaluates.
        object_metrics: whether evaluation outputs are kept for metric objects.
        loaders: loader processes.
        stages: slots of a pipe in a training round.
    """

    slots: int
    most: int
    microbatches: int
    metrics: int
    evaluations: int
    evaluation_times: int
    object_metrics: bool
    loaders: int
    stages: int = 1

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
    scalars: int
    gradient_buffers: int
    segment: SegmentLayout = field(repr=False)
    stage_of: tuple[int, ...] = ()
    """The stage of each parameter, where a stage is updated before the ones before it have summed."""
    _slices: dict[int, list[list[Chunk]]] = field(init=False, default_factory=dict, repr=False)
    _due: dict[int, list[tuple[int, ...]]] = field(init=False, default_factory=dict, repr=False)

    def slices(self, slots: int) -> list[list[Chunk]]:
        """What each slot of a world updates."""
        if slots not in self._slices:
            self._slices[slots] = slices(self.regions, slots, self.shape.stages, self.stage_of)
        return self._slices[slots]

    def due(self, slots: int, slot: int) -> tuple[int, ...]:
        """How many of a slot's chunks may be updated once all slots of a stage and of later ones have summed."""
        if slots not in self._due:
            stages = range(self.shape.stages)
            self._due[slots] = [
                tuple(sum(chunk.stage >= stage for chunk in chunks) for stage in stages)
                for chunks in self.slices(slots)
            ]  # fmt: skip
        return self._due[slots][slot]

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


def scratch_bytes(region: Region, vectors: tuple[StateVector, ...]) -> int:
    """Address space for any chunk of a region, however large its units are; untouched pages cost nothing."""
    total = 2 * aligned(region.length * np.dtype(region.dtype).itemsize)
    return total + sum(aligned(vector.length * np.dtype(vector.dtype).itemsize) for vector in vectors)


def host_layout(description: ModelDescription, shape: Shape) -> HostLayout:
    """Describe the shared segment of a host.

    Args:
        description: the model.
        shape: the world's sizes.
    """
    regions = _regions(description)
    vectors = tuple(_vectors(region, description) for region in regions)
    scalars = 1 + max((len(state.scalars) for state in description.states), default=0)
    buffers = 2 * max(shape.microbatches - 1, 1).bit_length() + 1
    layout = HostLayout(description, shape, regions, vectors, scalars, buffers, SegmentLayout())
    add = layout.segment.add
    slots, count = shape.most, len(description.parameters)
    for name in SlotWords._fields:
        add(name, "int64", (slots, 8))
    for name in HANDED:
        add(name, "int64", (slots, 8))
    add("reached", "int64", (slots, 8))
    add("computing", "int64", (slots, 8))
    add("control", "int64", (Control.COUNT, 8))
    add("ready", "int64", (layout.ring, 8))
    add("reading", "int64", (shape.loaders, 8))
    add("plans", "int64", (2, 9 + 3 * slots))
    add("agreement", "int64", (3 + 2 * slots,))
    add("seats", "int64", (slots,))
    add("heirs", "int64", (MEMBERS,))
    add("joined", "int64", (MEMBERS,))
    add("pace", "float64", (slots,))
    add("profile", "float64", (2,))
    add("used", "uint8", (slots + 1, max(count, 1)))  # the last row: other hosts
    add("table", "float64", (shape.microbatches, METRICS + 2 * shape.metrics))
    add("totals", "float64", (2, METRICS + 2 * shape.metrics))
    for name in ("losses", "watched"):
        add(name, "float64", (max(shape.evaluation_times, 1),))
    add("norms", "float64", (max(layout.norms.length, 1),))
    add("scalars", "float64", (2, max(count, 1), scalars))
    add("record_lengths", "int64", (slots, RECORDS))
    record = RECORD_BYTES + DIGEST_BYTES * count + EVENT_BYTES * shape.microbatches
    add("records", "uint8", (slots, RECORDS, record))
    for region in regions:
        add(f"parameters/{region.index}", region.dtype, (region.length,))
        for vector in vectors[region.index]:
            add(vector.area, vector.dtype, (vector.length,))
        if description.states[region.optimizer].averaged:
            add(f"averaged/{region.index}", region.dtype, (region.length,))
    size = TREE_BYTES + TREE_TIMES * sum(region.length * np.dtype(region.dtype).itemsize for region in regions)
    for index, state in enumerate(description.states):
        for parity in range(2 if state.tree else 0):
            add(f"tree/{index}/{parity}", "uint8", (size,))
    for number, (spec, owner) in enumerate(zip(description.parameters, description.owners, strict=True)):
        if owner is None:
            add(f"frozen/{number}", spec.storage, spec.shape)
    for index, spec in enumerate(description.buffers):
        for parity in range(2):
            add(f"buffer/{index}/{parity}", spec.storage, spec.shape)
    for pipe in (ALL_HOSTS, *range(slots // shape.stages)):  # stages of a pipe share them: each parameter is in one
        held = 1 if pipe == ALL_HOSTS else buffers
        for region in regions:
            add(f"gradients/{pipe}/{region.index}", region.dtype, (held, region.length))
        add(f"buffer_sums/{pipe}", "float64", (held, max(averaged_elements(description.buffers), 1)))
        add(f"buffer_changed/{pipe}", "float64", (held, max(len(description.buffers), 1)))
    for slot in range(slots):
        add(f"scratch/{slot}", "uint8", (max(scratch_bytes(r, vectors[r.index]) for r in regions),))
    for stage in range(shape.stages - 1):
        for microbatch in range(shape.microbatches):
            for way in ("forward", "backward"):
                add(f"{way}/{stage}/{microbatch}", "uint8", (ENTRY_BYTES,))
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


class Heirs:
    """Who inherits from whom; only the supervisor writes.

    An heir reads the dead member's words after it has seen its own name, and by then the supervisor knows of the death.
    """

    def __init__(self, table: Array) -> None:
        self._view = memoryview(table).cast("B").cast("q")  # type: ignore[arg-type]

    def of(self, member: int) -> int | None:
        """The heir of a dead member; None of a living one."""
        heir = self._view[member % MEMBERS]
        fence()
        return heir - 1 if heir else None

    def name(self, member: int, heir: int | None) -> None:
        """Name a dead member's heir; None for one that begins to live."""
        fence()
        self._view[member % MEMBERS] = 0 if heir is None else heir + 1


class HostState:
    """Typed views of the shared segment."""

    def __init__(self, layout: HostLayout, segment: Segment) -> None:
        self.layout = layout
        self.segment = segment
        self.heirs = Heirs(segment["heirs"])
        self._names = frozenset(spec.name for spec in layout.description.parameters)
        self._places = {
            parameter.number: (region.index, StatePlace(parameter.offset, parameter.shape))
            for region in layout.regions for parameter in region.parameters
        }  # fmt: skip
        self._known: list[tuple[list[int], Plan | None]] = [([], None), ([], None)]
        self._plans = [memoryview(area).cast("B").cast("q") for area in segment["plans"]]
        self.control = Words(segment, "control", 0.0)
        self.trees = {
            index: Versions(
                [segment[f"tree/{index}/{parity}"] for parity in range(2)], f"the state of {settings['class']}"
            )
            for index, (held, settings) in enumerate(
                zip(layout.description.states, layout.description.optimizers, strict=True)
            )
            if held.tree
        }

    def begin(self, round: int) -> None:
        """Set every word to the start of a round; nobody works yet."""
        for name in ("summed", "normed", "committed"):
            self.segment[name][:, 0] = round
        self.segment["reached"][:, 0] = 0  # the same round may be shared out otherwise than it was
        for word in (Control.DRAINED, Control.COPIED, Control.EXCHANGED):
            self.control.publish(word, round)
        self.segment["used"][-1] = 0  # what other hosts have used: they may be gone

    def plans(self) -> list[Plan | None]:
        """The plans of the present round and its neighbour; None for one that is being written.

        A plan was whole while it was read if it had the same number before and after that.
        """
        found: list[Plan | None] = []
        for parity, area in enumerate(self._plans):
            number = area[0]
            fence()
            words = area.tolist()
            fence()
            if not number or not number == words[0] == area[0]:
                found.append(None)
                continue
            known, plan = self._known[parity]
            if known != words:
                plan = Plan.from_words(words)
                self._known[parity] = (words, plan)
            found.append(plan)
        return found

    def stamp(self, plan: Plan) -> None:
        """Leave a plan for everyone: first nothing, then its content, then its number."""
        area, words = self._plans[plan.round & 1], plan.to_words()
        area[0] = 0
        fence()
        for index, word in enumerate(words[1:], 1):
            area[index] = word
        fence()
        area[0] = words[0]

    def withdraw(self) -> None:
        """No plan is in force until the next one is stamped: who comes now must not take an old one for it."""
        for area in self._plans:
            area[0] = 0

    def seats(self) -> tuple[int, ...]:
        """Who sits where from the next plan on."""
        return tuple(self.segment["seats"][: self.control.get(Control.SEATS)].tolist())

    def seat(self, members: Sequence[int]) -> None:
        """The supervisor seats members; whatever mixture of old and new is seen meanwhile is sound."""
        self.segment["seats"][: len(members)] = members
        self.control.publish(Control.SEATS, len(members))

    def parameter(self, number: int) -> Array:
        """A parameter's elements, in its shape."""
        if self.layout.description.owners[number] is None:
            return self.segment[f"frozen/{number}"]
        region, place = self._places[number]
        return self.segment[f"parameters/{region}"][place.offset : place.end].reshape(place.shape)

    def averaged(self) -> dict[int, Array]:
        """The parameters that are evaluated and saved instead of those that are trained, by number."""
        found: dict[int, Array] = {}
        for region in self.layout.regions:
            if self.layout.description.states[region.optimizer].averaged:
                values = self.segment[f"averaged/{region.index}"]
                found |= {p.number: values[p.offset : p.end].reshape(p.shape) for p in region.parameters}
        return found

    def parameters(self) -> list[Array]:
        """Every parameter by number."""
        return [self.parameter(number) for number in range(len(self.layout.description.parameters))]

    def buffers(self, parity: int) -> list[Array]:
        """Every buffer; `parity` is that of the number of steps done."""
        return [self.segment[f"buffer/{index}/{parity}"] for index in range(len(self.layout.description.buffers))]

    def state(self, number: int) -> dict[str, Array]:
        """A parameter's optimizer state by key."""
        region, _ = self._places[number]
        return {
            vector.key: self.segment[vector.area][place.offset : place.end].reshape(place.shape)
            for vector in self.layout.vectors[region]
            if (place := vector.places.get(number)) is not None
        }

    def saved(self, steps_done: int) -> Tensors:
        """What the final file holds, by `state_dict()` name."""
        description = self.layout.description
        found = Tensors()
        buffers, averaged = self.buffers(steps_done & 1), self.averaged()
        for source in description.saved:
            if source.kind == "buffer":
                found.add(source.name, buffers[source.index], description.buffers[source.index].dtype)
            else:
                values = averaged[source.index] if source.index in averaged else self.parameter(source.index)
                found.add(source.name, values, description.parameters[source.index].dtype)
        return found

    def optimizer(self, steps_done: int) -> Tensors:
        """The optimizers' state: `PARAMETER/KEY`; and what `state_dict()` leaves out: `buffer/NAME`.

        A state that is a tree is arrays named by their place in it, and its text as `optimizer.NUMBER`.
        """
        description = self.layout.description
        found = Tensors()
        scalars = self.segment["scalars"][steps_done & 1]
        for index, tree in self.trees.items():
            plain, arrays = tree.read(steps_done)
            for name, array in arrays.items():
                found.add(self._of(index, name), array, str(array.dtype))
            text = bytearray(json.dumps([list(arrays), plain]).encode())
            found.add(f"optimizer.{index}", np.frombuffer(text, np.uint8), "uint8")
        for number in self.averaged():
            name, values = description.parameters[number].name, self.parameter(number)
            found.add(f"{name}/trained", values, str(values.dtype))
        for number, (spec, owned) in enumerate(zip(description.parameters, description.owners, strict=True)):
            if owned is None or description.states[owned].tree:
                continue
            for key, array in self.state(number).items():
                found.add(f"{spec.name}/{key}", array, str(array.dtype))
            found.add(f"{spec.name}/scalars", scalars[number], "float64")
        kept = {source.index for source in description.saved if source.kind == "buffer"}
        for index, (spec, array) in enumerate(zip(description.buffers, self.buffers(steps_done & 1), strict=True)):
            if index not in kept:
                found.add(f"buffer/{spec.name}", array, spec.dtype)
        return found

    def restore(self, parameters: Mapping[str, Array], optimizer: Mapping[str, Array], steps_done: int) -> None:
        """Write back what `saved` and `optimizer` gave after so many steps.

        Raises:
            UsageError: a tensor is missing or has another shape.
        """
        if optimizer:
            self._restore_trees(optimizer, steps_done)
        own = [(self.saved(steps_done), parameters), *([(self.optimizer(steps_done), optimizer)] if optimizer else [])]
        for tensors, values in own:
            for name, array in tensors.arrays.items():
                there = values.get(name)
                if there is None or (there.shape, there.dtype) != (array.shape, array.dtype):
                    found = "nothing" if there is None else f"{there.dtype} {list(there.shape)}"
                    raise UsageError(
                        f"saved tensors must fit the job's model and optimizer; {name!r} is {array.dtype} "
                        f"{list(array.shape)} here and {found} there. Use the job that the run was made with."
                    )
                array[...] = values[name]
        if not optimizer:
            for number, average in self.averaged().items():
                self.parameter(number)[...] = average

    def _restore_trees(self, optimizer: Mapping[str, Array], steps_done: int) -> None:
        for index, tree in self.trees.items():
            if f"optimizer.{index}" not in optimizer:
                raise UsageError(
                    f"saved tensors must fit the job's model and optimizer; 'optimizer.{index}' is not there. Use the "
                    "job that the run was made with."
                )
            try:
                names, plain = check(parsed(optimizer[f"optimizer.{index}"].tobytes(), MOST_NESTED), list)
                arrays = {name: optimizer[self._of(index, name)] for name in check(names, [str])}
                tree.write(steps_done, check(plain, dict), arrays)
            except (Malformed, KeyError, ValueError) as error:
                raise UsageError(
                    f"saved tensors must fit the job's model and optimizer; 'optimizer.{index}' does not: {error}. Use "
                    "the job that the run was made with."
                ) from error

    def _of(self, index: int, name: str) -> str:
        """What an array of an optimizer's tree is called in files, where all optimizers' lie side by side."""
        return name if name.partition("/")[0] in self._names else f"optimizer.{index}/{name}"
