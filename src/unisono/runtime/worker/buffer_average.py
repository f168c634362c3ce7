"""What a step leaves in the model's buffers: of those that changed the average over the samples of the batch."""

from __future__ import annotations

from typing import Any

from unisono.frameworks.protocol import Array
from unisono.gradients.adding import TreeAdder
from unisono.gradients.arithmetic import room
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import FLOATING, SAMPLES, WEIGHT, averaged_places


def average_buffers(state: HostState, tree: Any, totals: Array, updates: int) -> None:
    """The buffers that changed become Σ nₘ·bₘ / Σ nₘ; integer ones the first microbatch's.

    A step of weight 0 changes none.

    Args:
        state: the host's shared state.
        tree: the sum to form; leaves are (pipe, buffer).
        totals: of the step's rows in the table of microbatches.
        updates: how many have been done before this one.
    """
    specs = state.layout.description.buffers
    if not specs:
        return
    sums, changed = (_sum(state, tree, name) for name in ("buffer_sums", "buffer_changed"))
    places, old, new = averaged_places(specs), state.buffers(updates), state.buffers(updates + 1)
    for index, spec in enumerate(specs):
        if totals[WEIGHT] == 0 or not changed[index]:
            new[index][...] = old[index]
        elif spec.dtype in FLOATING:
            new[index][...] = (sums[places[index]] / float(totals[SAMPLES])).reshape(new[index].shape)
        else:
            new[index][...] = state.segment[f"buffer_first/{index}"]


def _sum(state: HostState, tree: Any, name: str) -> Array:
    """A sum along the tree of what the pipes have left under a name."""
    out = room(state.segment[f"{name}/0"][0])
    return TreeAdder()(tree, lambda pipe, buffer: state.segment[f"{name}/{pipe}"][buffer], out)
