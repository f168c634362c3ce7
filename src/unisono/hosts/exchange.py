"""One round's exchange between hosts: every host ends with the same sums over all of them, and the same host shares.

Each host leaves partial sums of its share of the microbatches: a few nodes of the tree. Gradients come first
(`gradient_exchange`). Small things (rows of microbatches, which parameters were used, buffers that changed, what the
next plan is made of) go from each to each, and last, for they are known last: they say too that what was sent early has
turned out complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from unisono.frameworks.protocol import Array
from unisono.gradients.adding import TreeAdder
from unisono.hosts.additions import Additions
from unisono.hosts.arrays import Reader, joined
from unisono.hosts.gradient_exchange import SPANS, GradientExchange
from unisono.hosts.ready_sums import ReadySums
from unisono.hosts.transport import Transport, wait_for
from unisono.runtime.rules.folding import ALL_HOSTS
from unisono.runtime.rules.plan import Plan
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_shares import HostShares
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import FLOATING

HEAD, BUFFERS = range(SPANS)
"""Tags of a round's small messages."""


class SentTooEarly(Exception):
    """A gradient came twice, and its first part was sent; nobody has used it yet."""


@dataclass
class Exchange:
    """The exchanges of one host.

    Args:
        state: its shared state.
        transport: the way to the others.
        host: its number.
        hosts: how many there are.
    """

    state: HostState
    transport: Transport
    host: int
    hosts: int

    def __post_init__(self) -> None:
        self._segment, self._buffer_specs = self.state.segment, self.state.layout.description.buffers
        self._others = [other for other in range(self.hosts) if other != self.host]
        self._shares, self._ready, self._adder = HostShares(self.state), ReadySums(self.state), TreeAdder()
        self._gradients = GradientExchange(self.state, self.transport, self.host, self.hosts, self._ready)

    def round(self, plan: Plan, round_: Round, total: int) -> None:
        """Exchange what the round needs.

        Args:
            plan: the plan in force; it shares the microbatches out among the hosts.
            round_: its round.
            total: non-empty microbatches.

        Raises:
            ConnectionLost: another host does not answer any more.
            SentTooEarly: sums were sent that were not complete.
        """
        training, additions = round_.evaluation is None, Additions.of(plan, self.host, total)
        self._ready.begin(plan)
        if training:
            self._gradients.round(plan, additions)
        self._ready.wait_for_all()
        if not self._ready.was_sound:
            raise SentTooEarly
        changed = self._heads(plan, total, training, additions)
        if changed.any():
            self._buffers(plan, changed, additions)

    def _heads(self, plan: Plan, total: int, training: bool, additions: Additions) -> Array:
        """Exchange rows, marks and what the next plan is made of; returns which buffers changed anywhere."""
        table, used = self._segment["table"], self._segment["used"]
        control = self.state.control
        facts = np.array(
            [len(self.state.plans.seats()), control.get(Control.STOP), control.get(Control.ASKED)], np.int64
        )
        marks = np.zeros((2, max(used.shape[1], len(self._buffer_specs))), np.uint8)
        if training:
            np.bitwise_or.reduce(used[: plan.slots], axis=0, out=marks[0, : used.shape[1]])
            for pipe, buffer in additions.leaves():
                flags = self._segment[f"buffer_changed/{pipe}"][buffer]
                marks[1, : len(flags)] |= flags != 0
        ends = [min(share, total) for share in plan.hosts]
        rows = [table[start:stop] for start, stop in pairwise(ends)]
        came = self._each_to_each(
            joined([facts, rows[self.host], marks]), [facts.nbytes + each.nbytes + marks.nbytes for each in rows], HEAD
        )
        found, others, changed = {self.host: facts}, np.zeros_like(marks[0]), marks[1].copy()
        for host in self._others:
            found[host] = came[host].take(np.int64, facts.shape)
            came[host].fill(rows[host])
            theirs = came[host].take(np.uint8, marks.shape)
            others |= theirs[0]
            changed |= theirs[1]
        used[-1] = others[: used.shape[1]] if training else 0
        workers, shutdowns, asked = zip(*(map(int, found[host]) for host in range(self.hosts)), strict=True)
        self._shares.agree(workers, shutdowns, max(asked))
        of_buffers: Array = changed[: len(self._buffer_specs)]
        return of_buffers

    def _buffers(self, plan: Plan, changed: Array, additions: Additions) -> None:
        """Sum the floating-point buffers that changed; the others' values come from the first microbatch's host."""
        kept = np.repeat(changed != 0, [each.elements if each.dtype in FLOATING else 0 for each in self._buffer_specs])
        first = [
            self._segment[f"buffer_first/{index}"]
            for index, each in enumerate(self._buffer_specs) if changed[index] and each.dtype not in FLOATING
        ]  # fmt: skip
        begins = next(host for host in range(self.hosts) if plan.hosts[host + 1])  # with the first microbatch
        elements, counts, out = int(np.count_nonzero(kept)), additions.counts, np.empty(kept.size)
        sizes = [8 * count * elements for count in counts]
        sizes[begins] += sum(array.nbytes for array in first)
        own = [
            self._adder(each, lambda pipe, node: self._segment[f"buffer_sums/{pipe}"][node], out)[kept]
            for each in additions.own
        ]
        came = self._each_to_each(joined(own + (first if self.host == begins else [])), sizes, BUFFERS)
        nodes = {(self.host, node): values for node, values in enumerate(own)}
        for host in self._others:
            nodes |= {(host, node): came[host].take(np.float64, (elements,)) for node in range(counts[host])}
        if self.host != begins:
            for array in first:
                came[begins].fill(array)
        self._segment[f"buffer_changed/{ALL_HOSTS}"][0, : changed.size] = changed
        total = self._adder(additions.tree, lambda host, node: nodes[host, node], np.empty(elements))
        self._segment[f"buffer_sums/{ALL_HOSTS}"][0][kept] = total

    def _each_to_each(self, own: Array, sizes: Sequence[int], tag: int) -> dict[int, Reader]:
        """Send the same to all others; returns what comes from each, of so many bytes."""
        came = {host: np.empty(sizes[host], np.uint8) for host in self._others}
        received = [self.transport.receive(data, host, tag) for host, data in came.items() if data.size]
        sent = [self.transport.send(own, host, tag) for host in self._others if own.size]
        wait_for((*received, *sent))
        return {host: Reader(data) for host, data in came.items()}
