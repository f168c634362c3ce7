"""A host's state between two rounds: which areas hold it, and a digest by which hosts see whether theirs are equal."""

from __future__ import annotations

import json
from hashlib import blake2b

from unisono.frameworks.protocol import Array
from unisono.hosts.arrays import flat
from unisono.runtime.state.host_state import HostState


def state_arrays(state: HostState, steps: int) -> list[Array]:
    """All that a host needs of another one's state after so many steps, as flat bytes, but for what may grow."""
    layout, segment, parity = state.layout, state.segment, steps & 1
    names = [f"parameters/{region.index}" for region in layout.regions]
    names += [vector.area for vectors in layout.vectors for vector in vectors]
    names += [f"frozen/{number}" for number, owner in enumerate(layout.description.owners) if owner is None]
    names += [f"buffer/{index}/{parity}" for index in range(len(layout.description.buffers))]
    states = layout.description.states
    names += [f"averaged/{region.index}" for region in layout.regions if states[region.optimizer].averaged]
    arrays = [segment[name] for name in names]
    arrays += [segment["scalars"][parity], segment["losses"], segment["watched"], segment["totals"]]
    return [flat(array) for array in arrays if array.size]


def tree_words(state: HostState, steps: int) -> list[Array]:
    """What says how many bytes there are of each state that may grow: to be sent before them."""
    return [flat(tree.words(steps)) for tree in state.trees.values()]


def tree_arrays(state: HostState, steps: int) -> list[Array]:
    """These states' bytes."""
    return [tree.used(steps) for tree in state.trees.values()]


def state_digest(state: HostState, steps: int) -> str:
    """Equal digests are equal states."""
    digest = blake2b(digest_size=16)
    for array in state_arrays(state, steps)[:-1]:  # the totals hold times
        digest.update(memoryview(array))  # type: ignore[arg-type]
    for tree in state.trees.values():  # not its bytes: between arrays lie those of earlier ones
        plain, arrays = tree.read(steps)
        digest.update(json.dumps(plain).encode())
        for array in arrays.values():
            digest.update(array.tobytes())
    return digest.hexdigest()
