"""One microbatch, computed before the first step on every host, and what hosts compare of it.

It is the first one of the run, on the model's first values: forward and backward pass of the whole model in one
process, then the optimizer on a few elements. Writes to the host's memory stay that process's own, and it ends
afterwards: nothing of this reaches the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        found.update(_values(prepared, HostState(state.layout, state.segment.private())))
    return found


def _values(prepared: Prepared, state: HostState) -> Iterator[tuple[str, str]]:
    """The computation, in memory of its own."""
    description, used = state.layout.description, state.segment["used"][0]
    names = [spec.name for spec in description.parameters]
    for name, values in zip(names, state.parameters(), strict=True):
        yield f"the first value of {name!r}", digest(values)
    gradients = {
        parameter.number: np.zeros(parameter.shape, region.dtype)
        for region in state.layout.regions for parameter in region.parameters
    }  # fmt: skip
    measured = _gradient(prepared, state, gradients, used)
    yield "the loss", f"{measured.loss.hex()} {measured.weight.hex()}"
    for number, values in gradients.items():
        yield f"the gradient of {names[number]!r}", digest(values) if used[number] else "none"
    for spec, live in zip(description.buffers, prepared.adapter.live_buffers(), strict=True):
        yield f"the buffer {spec.name!r} after it", digest(live)
    yield from _updated(prepared, state, gradients, measured.weight)


def _gradient(prepared: Prepared, state: HostState, gradients: Mapping[int, Array], used: Array) -> Measured:
    """Compute as a worker does, down to where samples lie in memory."""
    program, adapter = prepared.program, prepared.adapter
    round_, ring = program.at(0), prepared.ring(state.segment)
    ring.put(round_, 0, prepared.reader().read(round_, 0))
    prepared.framework.data.pin(prepared.request.threads)
    prepared.bind(state)
    adapter.refresh(0)
    batch = taken(ring.get(round_, 0))
    adapter.load_buffers(state.buffers(0))
    adapter.seed(key(prepared.job.seed, "compute", 0, 0))
    measured: Measured = adapter.gradient(batch, program.samples(round_, 0), adapter.gradient_buffers(gradients), used)
    return measured


def _updated(
    prepared: Prepared, state: HostState, gradients: Mapping[int, Array], weight: float
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """The first elements of some parameters after the optimizer: of each kind of update one chunk is enough."""
    first: dict[int, Chunk] = {}
    for chunks in state.layout.slices(state.layout.shape.slots):
        for chunk in chunks:
            first.setdefault(chunk.region, chunk)
    for chunk in first.values():
        sums = state.gradients(0, chunk.region)[0]
        for piece in chunk.pieces:
            start = piece.parameter.offset
            values = gradients[piece.parameter.number].reshape(-1)[piece.start : piece.stop]
            sums[start + piece.start : start + piece.stop] = values
    update = Update(state, prepared.adapter, 0, list(first.values()))
    action, words = Action(Do.UPDATE, 0, len(first)), Words(state.segment, "progress")
    update.apply(prepared.program.at(0), (0, 0), weight, action, words)
    for chunk in first.values():
        for piece in (piece for piece in chunk.pieces if piece.start == 0):
            values = state.parameter(piece.parameter.number).reshape(-1)[:BLOCK]
            yield f"the update of {piece.parameter.name!r}", digest(values)


def digest(array: Array) -> str:
    """A short digest of an array's bits."""
    return sha256(np.ascontiguousarray(array).data).hexdigest()[:16]
