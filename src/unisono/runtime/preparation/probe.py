"""One microbatch, computed before the first step on every host, and what hosts compare of it.

It is the first one of the run, on the model's first values: forward and backward pass of the whole model in one
process, then the optimizer on a few elements. Writes to the host's memory stay that process's own, and it ends
afterwards: nothing of this reaches the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256

import numpy as np

from unisono.frameworks.protocol import Array, Measured
from unisono.gradients.regions import BLOCK, Chunk
from unisono.memory.words import Words
from unisono.partition.keys import key
from unisono.runtime.loader.samples import taken
from unisono.runtime.preparation.prepared import Prepared
from unisono.runtime.rules.plan import Action, Do
from unisono.runtime.state.host_state import HostState
from unisono.runtime.worker.update import Update


def probed(prepared: Prepared, state: HostState) -> dict[str, str]:
    """What the microbatch gives: name → digest, in the order in which it comes about.

    Args:
        prepared: the job.
        state: the host's memory, with the model's first values.

    Returns:
        As much as could be computed: what fails here fails again in the first step, where it is named.
    """
    found: dict[str, str] = {}
    with suppress(Exception, SystemExit):
        for name, value in _Probe(prepared, HostState(state.layout, state.segment.private())).values():
            found[name] = value
    return found


class _Probe:
    """The computation, in memory of its own."""

    def __init__(self, prepared: Prepared, state: HostState) -> None:
        self._prepared, self._state, self._adapter = prepared, state, prepared.adapter
        self._layout, self._description = state.layout, state.layout.description
        self._used = state.segment["used"][0]
        self._gradients = {
            parameter.number: np.zeros(parameter.shape, region.dtype)
            for region in self._layout.regions for parameter in region.parameters
        }  # fmt: skip

    def values(self) -> Iterator[tuple[str, str]]:
        names = [spec.name for spec in self._description.parameters]
        for name, values in zip(names, self._state.parameters(), strict=True):
            yield f"the first value of {name!r}", digest(values)
        measured = self._gradient()
        yield "the loss", f"{measured.loss.hex()} {measured.weight.hex()}"
        for number, values in self._gradients.items():
            yield f"the gradient of {names[number]!r}", digest(values) if self._used[number] else "none"
        for spec, live in zip(self._description.buffers, self._adapter.live_buffers(), strict=True):
            yield f"the buffer {spec.name!r} after it", digest(live)
        yield from self._updated(measured.weight)

    def _gradient(self) -> Measured:
        """Compute as a worker does, down to where samples lie in memory."""
        prepared, program, adapter = self._prepared, self._prepared.program, self._adapter
        round_, ring = program.at(0), prepared.ring(self._state.segment)
        ring.put(round_, 0, prepared.reader().read(round_, 0))
        prepared.framework.data.pin(prepared.request.threads)
        prepared.bind(self._state)
        adapter.refresh(0)
        batch = taken(ring.get(round_, 0))
        for live, value in zip(adapter.live_buffers(), self._state.buffers(0), strict=True):
            live[...] = value
        adapter.seed(key(prepared.job.seed, "compute", 0, 0))
        into = adapter.gradient_buffers(self._gradients)
        measured: Measured = adapter.gradient(batch, program.samples(round_, 0), into, self._used)
        return measured

    def _updated(self, weight: float) -> Iterator[tuple[str, str]]:
        """The first elements of some parameters after the optimizer: of each kind of update one chunk is enough."""
        segment, chunks = self._state.segment, self._chunks()
        for chunk in chunks:
            sums = self._state.gradients(0, chunk.region)[0]
            for piece in chunk.pieces:
                start = piece.parameter.offset
                values = self._gradients[piece.parameter.number].reshape(-1)[piece.start : piece.stop]
                sums[start + piece.start : start + piece.stop] = values
        update = Update(self._state, self._adapter, 0, chunks)
        action, words = Action(Do.UPDATE, 0, len(chunks)), Words(segment, "progress")
        update.apply(self._prepared.program.at(0), (0, 0), weight, action, words)
        for chunk in chunks:
            for piece in (piece for piece in chunk.pieces if piece.start == 0):
                values = self._state.parameter(piece.parameter.number).reshape(-1)[:BLOCK]
                yield f"the update of {piece.parameter.name!r}", digest(values)

    def _chunks(self) -> Sequence[Chunk]:
        first: dict[int, Chunk] = {}
        for chunks in self._layout.slices(self._layout.shape.slots):
            for chunk in chunks:
                first.setdefault(chunk.region, chunk)
        return list(first.values())


def digest(array: Array) -> str:
    """A short digest of an array's bits."""
    return sha256(np.ascontiguousarray(array).data).hexdigest()[:16]
