"""A model cut into stages: measured, chosen, and accepted only if it gives the uncut bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from unisono.errors import UsageError
from unisono.frameworks.protocol import Array, Crossing, Measured, Unit
from unisono.gradients.tree import fold
from unisono.memory.crossing import read, write
from unisono.memory.heap import trim
from unisono.memory.segment import Segment, SegmentLayout
from unisono.partition.keys import key
from unisono.partition.layout import Layout
from unisono.partition.stages import Cost, choose
from unisono.runtime.loader.samples import SampleReader
from unisono.runtime.rules.rounds import Program
from unisono.runtime.state.layout import ENTRY_BYTES, HostLayout

HAND_OVER_SECONDS = 50e-6
"""Of one microbatch from a stage to the next, besides its bytes."""

COPY_SECONDS_PER_BYTE = 1 / 5e9


@dataclass(frozen=True)
class Probe:
    """A microbatch to try a cut on: its (inputs, targets) and its number of samples."""

    batch: Any
    samples: int


@dataclass(frozen=True)
class Cut:
    """How a model is cut: its units, and the stages that they form (see `Adapter.stage`)."""

    units: tuple[Unit, ...]
    cuts: tuple[int, ...]

    @property
    def stages(self) -> list[tuple[Unit, ...]]:
        """The units of each stage."""
        return [self.units[a:b] for a, b in zip(self.cuts, self.cuts[1:], strict=False)]

    def stage_of(self, parameters: int) -> tuple[int, ...]:
        """The first stage that uses each of so many parameters."""
        found = [0] * parameters
        for stage, units in reversed(list(enumerate(self.stages))):
            for unit in units:
                for number in unit.parameters:
                    found[number] = stage
        return tuple(found)


def probe_microbatches(program: Program, reader: SampleReader) -> list[Probe]:
    """Two microbatches, and one of each other size that occurs in an epoch."""
    probes: list[Probe] = []
    for step in sorted({0, max(min(program.batches.steps_per_epoch, program.steps) - 1, 0)}):
        round_ = program.at(program.first_round(step, True))
        for microbatch in range(program.nonempty(round_)):
            samples = program.samples(round_, microbatch)
            if [probe.samples for probe in probes].count(samples) < (1 if probes else 2):
                probes.append(Probe(reader.read(round_, microbatch), samples))
    return probes


def cut_in_stages(
    adapter: Any, host: HostLayout, layout: Layout, recompute: bool, probes: Sequence[Probe], seed: int, memory: int
) -> Cut:
    """Cut a model and try the cut.

    Args:
        adapter: the model, with its own first values.
        host: the host's memory.
        layout: data × pipeline.
        recompute: see `Adapter.stage`.
        probes: what to try the cut on; the first one is measured too.
        seed: the job's.
        memory: bytes that the host has.

    Raises:
        UsageError: the model can't be cut so, a stage doesn't fit the memory, or the cut model gives other bits.
    """
    units = adapter.units(probes[0].batch, probes[0].samples)
    costs = [
        Cost(u.forward_seconds, u.backward_seconds, u.crossing_bytes if recompute else u.activation_bytes,
             u.crossing_bytes, u.joined)
        for u in units
    ]  # fmt: skip
    free = max(memory - _state_bytes(host, layout, adapter.can_add), 0) // (layout.data or 1)
    if recompute:  # each stage keeps one unit's activations while it computes them again
        free = max(free - layout.pipeline * max(unit.activation_bytes for unit in units), 0)
    cuts = choose(costs, layout.pipeline, HAND_OVER_SECONDS, COPY_SECONDS_PER_BYTE, free)
    with closing(_Trial(adapter, host, Cut(units, cuts), recompute)) as trial:
        for number, probe in enumerate(probes):
            trial.compare(probe, key(seed, "probe", number))
    trim()  # workers are forked from here
    return Cut(units, cuts)


def _state_bytes(host: HostLayout, layout: Layout, add: bool) -> int:
    """Parameters, optimizer state and the partial sums of every pipe."""
    total = 0
    for name, area in host.segment.areas.items():
        if name.split("/")[0] in ("parameters", "state", "frozen"):
            total += int(np.prod(area.shape, dtype=np.int64)) * np.dtype(area.dtype).itemsize
    gradients = sum(region.length * np.dtype(region.dtype).itemsize for region in host.regions)
    pipes, microbatches = layout.data or 1, host.shape.microbatches
    return total + pipes * len(fold(0, -(-microbatches // pipes), microbatches).written(add)) * gradients


class _Trial:
    """Compares the cut model with the uncut one, in memory of its own."""

    def __init__(self, adapter: Any, host: HostLayout, cut: Cut, recompute: bool) -> None:
        self._adapter, cuts = adapter, cut.cuts
        self._places = ", ".join(repr(cut.units[at].name) for at in cuts[1:-1]) or "nothing"
        self._stages = [adapter.stage(cuts, index, recompute) for index in range(len(cuts) - 1)]
        self._names = [spec.name for spec in host.description.parameters]
        self._buffers = [spec.name for spec in host.description.buffers]
        areas = SegmentLayout()
        for region in host.regions:
            areas.add(f"gradients/{region.index}", region.dtype, (region.length,))
        for index in range(len(cuts) - 2):
            for way in ("forward", "backward"):
                areas.add(f"{way}/{index}", "uint8", (ENTRY_BYTES,))
        self._memory = Segment.create(areas)
        self._arrays: dict[int, Array] = {
            p.number: p.of(self._memory[f"gradients/{region.index}"])
            for region in host.regions for p in region.parameters
        }  # fmt: skip
        self._into = adapter.gradient_buffers(self._arrays)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()

    def compare(self, probe: Probe, seed: int) -> None:
        """Compare on one microbatch.

        Raises:
            UsageError: something differs.
        """
        base = self._buffers_now()
        found: list[dict[str, Any]] = []
        for is_whole in (True, False):
            self._adapter.seed(seed)
            used = np.zeros(max(len(self._names), 1), np.uint8)
            whole = (probe.batch, probe.samples, self._into, used)
            measured = self._adapter.gradient(*whole) if is_whole else self._staged(probe, used)
            found.append(dict(self._values(measured, used)))
            self._adapter.load_buffers(base)
        for name, value in found[0].items():
            if value != found[1][name]:
                raise UsageError(
                    f"a model is cut only where that changes no bit; cut before {self._places}, {name} differs in a "
                    f"microbatch of {probe.samples} samples. Cut it elsewhere by hand: Job(split_points=[…]) or "
                    "Job(stages=[…]); see docs/layouts.md."
                )

    def _staged(self, probe: Probe, used: Array) -> Measured:
        received, kept = Crossing(), []
        measured: Measured | None = None
        base = self._buffers_now()
        for index, stage in enumerate(self._stages):
            passed = stage.forward(probe.batch, probe.samples, received)
            kept.append(passed.kept)
            measured = passed.measured
            received = self._through(f"forward/{index}", passed.sent)
        after = self._buffers_now()
        for index in reversed(range(len(self._stages))):
            self._adapter.load_buffers(base)  # for what is computed again
            sent = self._stages[index].backward(kept[index], received, self._into, used)
            received = self._through(f"backward/{index - 1}", sent)
        self._adapter.load_buffers(after)
        assert measured is not None, "the last stage measures"
        return measured

    def _buffers_now(self) -> list[Array]:
        return [np.array(live) for live in self._adapter.live_buffers()]

    def _through(self, area: str, what: Crossing) -> Crossing:
        if area not in self._memory.layout.areas:
            return Crossing()
        write(what.arrays, what.plain, self._memory[area])
        return Crossing(*read(self._memory[area]))

    def _values(self, measured: Measured, used: Array) -> Iterator[tuple[str, Any]]:
        yield "the loss", (measured.loss, measured.weight)
        yield "a metric", measured.metrics
        for number, array in self._arrays.items():
            yield f"the gradient of {self._names[number]!r}", (bool(used[number]), _digest(array))
        for name, live in zip(self._buffers, self._adapter.live_buffers(), strict=True):
            yield f"the buffer {name!r}", _digest(live)


def _digest(array: Array) -> bytes:
    return blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()
