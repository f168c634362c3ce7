"""The gradients of a round between hosts: nodes of the tree to who adds them up, sums back from there.

The elements of the flat vectors are cut into spans that take turns between hosts. Of each span every host sends its
nodes to the span's host, which adds all of them along the tree and returns the sum: with one node a host,
2 · (H − 1) / H times the gradients' bytes for each of H hosts, as in a ring all-reduce, but in the tree's order of
additions. (Two hosts with one node each give it to each other: the same bytes, one way only.) A span is on its way as
soon as the last microbatch's backward pass has left it behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from unisono.frameworks.protocol import Array
from unisono.gradients.adding import TreeAdder
from unisono.gradients.hosts import Span, spans
from unisono.hosts.additions import Additions
from unisono.hosts.ready_sums import ReadySums
from unisono.hosts.transport import Pending, Transport, wait_for
from unisono.runtime.rules.folding import ALL_HOSTS
from unisono.runtime.rules.plan import Plan
from unisono.runtime.state.host_state import HostState

T = TypeVar("T")

WINDOW = 8
"""Spans handed over at once."""

AHEAD = 2 * WINDOW
"""Spans for whose nodes there is room: a sender waits to hear of it, and that message may queue behind spans."""

SPANS = 2
"""The first tag of a round's spans; they have two each. Those before are of small messages."""

Nodes = dict[tuple[int, int], Array]


def ahead(items: Iterable[T], window: int) -> Iterator[T]:
    """The items one by one, each when so many from it on have been made.

    >>> made = []
    >>> [(item, len(made)) for item in ahead((made.append(n) or n for n in range(3)), 2)]
    [(0, 2), (1, 3), (2, 3)]
    """
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) >= window:
            yield waiting.popleft()
    yield from waiting


class GradientExchange:
    """The gradients' part of an exchange.

    Args:
        state, transport, host, hosts: as in `Exchange`.
        complete: which of this host's partial sums may be read.
    """

    def __init__(
        self, state: HostState, transport: Transport, host: int, hosts: int, complete: ReadySums
    ) -> None:  # fmt: skip
        self._segment, self._layout, self._ready = state.segment, state.layout, complete
        self._transport, self._host = transport, host
        self._others = [other for other in range(hosts) if other != host]
        self._spans = spans([region.length for region in state.layout.regions], hosts)
        self._needed = [self._ready_with(span) for span in self._spans]
        self._adder = TreeAdder()
        self._rooms: dict[tuple[int, int, int], Array] = {}

    def round(self, plan: Plan, additions: Additions) -> None:
        """Every host has what it adds up, or the sums, afterwards."""
        self._additions, self._tag = additions, SPANS + 2 * len(self._spans) * (plan.round & 1)
        if additions.swapped:
            self._swap()
        else:
            self._add_in_turns()

    def _swap(self) -> None:
        """This host's node to the other one, a window of spans at once, and its from there: who updates adds them."""
        (other,) = self._others
        numbers = range(len(self._spans))
        came = [self._transport.receive(self._sum(self._spans[n]), other, self._tag + n) for n in numbers]
        for sent in ahead((self._sent(n, other, self._tag + n) for n in numbers), WINDOW):
            wait_for(sent)
        wait_for(came)

    def _add_in_turns(self) -> None:
        """Nodes to each span's host, sums back from it; a window of spans is on its way at any time."""
        tags = range(self._tag, self._tag + 2 * len(self._spans), 2)
        returned = [
            self._transport.receive(self._sum(span), span.host, tag + 1)
            for tag, span in zip(tags, self._spans, strict=True) if span.host != self._host
        ]  # fmt: skip
        arriving = ahead((self._expected(number, tag) for number, tag in enumerate(tags)), AHEAD)
        owners = enumerate(zip(tags, self._spans, strict=True))  # this host's nodes of another's span go there
        leaving = ahead(([] if s.host == self._host else self._sent(n, s.host, tag) for n, (tag, s) in owners), WINDOW)
        for number, ((pending, nodes), sent) in enumerate(zip(arriving, leaving, strict=True)):
            wait_for((*pending, *sent))
            if self._spans[number].host == self._host:
                total = self._added_up(number, nodes)
                returned += [self._transport.send(total, host, tags[number] + 1) for host in self._others]
        wait_for(returned)

    def _expected(self, number: int, tag: int) -> tuple[list[Pending], Nodes]:
        """Begin to receive the others' nodes of a span of this host's."""
        if self._spans[number].host != self._host:
            return [], {}
        counts = self._additions.counts
        nodes = {(host, k): self._room(number, host, k) for host in self._others for k in range(counts[host])}
        return [self._transport.receive(array, host, tag) for (host, _), array in nodes.items()], nodes

    def _sent(self, number: int, host: int, tag: int) -> list[Pending]:
        """Begin to send this host's nodes of a span."""
        return [self._transport.send(values, host, tag) for values in self._own(number)]

    def _own(self, number: int) -> list[Array]:
        """This host's nodes of a span, once they are complete."""
        leaf = self._partial(self._spans[number])
        while True:
            attempts = self._ready.wait_for(self._needed[number])
            values = []
            for node, each in enumerate(self._additions.own):
                room = self._room(number, self._host, node)
                found = self._adder(each, leaf, room)
                # A successor of who computes may write there again: of one microbatch the same bits, else half a sum.
                if attempts and found is not room and each not in self._additions.single:
                    room[...] = found
                    found = room
                values.append(found)
            if self._ready.holds(attempts):
                return values

    def _ready_with(self, span: Span) -> int:
        """How many parameters' gradients, from the last one on, a span takes; none where it lies between two."""
        parameters, total = self._layout.regions[span.region].parameters, len(self._layout.description.parameters)
        found = [each.number for each in parameters if each.offset < span.stop and each.end > span.start]
        return total - min(found, default=total)

    def _added_up(self, number: int, nodes: Nodes) -> Array:
        """The sum of a span over all hosts, in its place."""
        nodes = nodes | {(self._host, node): values for node, values in enumerate(self._own(number))}
        out = self._sum(self._spans[number])
        total = self._adder(self._additions.tree, lambda host, node: nodes[host, node], out)
        if total is not out:
            out[...] = total
        return out

    def _partial(self, span: Span) -> Callable[[int, int], Array]:
        def leaf(pipe: int, buffer: int) -> Array:
            found: Array = self._segment[f"gradients/{pipe}/{span.region}"][buffer, span.start : span.stop]
            return found

        return leaf

    def _sum(self, span: Span) -> Array:
        return self._partial(span)(ALL_HOSTS, 0)

    def _room(self, number: int, host: int, node: int) -> Array:
        """Memory for a node of a span while it is on its way."""
        span, key = self._spans[number], (number % AHEAD, host, node)
        dtype = np.dtype(self._layout.regions[span.region].dtype)
        needed = (span.stop - span.start) * dtype.itemsize
        if key not in self._rooms or self._rooms[key].size < needed:
            self._rooms[key] = np.empty(needed, np.uint8)
        return self._rooms[key][:needed].view(dtype)
