"""One round's exchange between hosts: every host ends with the same sums over all of them, and the same agreement.

Each host leaves partial sums of its share of the microbatches: a few nodes of the tree. The elements of the flat
vectors are cut into spans that take turns between hosts. Of each span every host sends its nodes to the span's host,
which adds all of them along the tree and returns the sum: with one node a host, 2 · (H − 1) / H times the gradients'
bytes for each of H hosts, as in a ring all-reduce, but in the tree's order of additions. (Two hosts with one node each
give it to each other: the same bytes, one way only.) A span is on its way as soon as the last microbatch's backward
pass has left it behind. Small things (rows of microbatches, which parameters were used, buffers that changed, what the
hosts agree on) go from each to each, and last, for they are known last: they say too that what was sent early has
turned out complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from unisono.frameworks.protocol import Array
from unisono.gradients.adding import TreeAdder
from unisono.gradients.hosts import nodes_of, swapped
from unisono.gradients.tree import expression
from unisono.hosts.complete_sums import Complete
from unisono.partition.hosts import Span, spans
from unisono.runtime.rules.folding import ALL_HOSTS, partial_sums
from unisono.runtime.rules.plan import Plan
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_shares import Agreement
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import FLOATING

WINDOW = 8
"""Spans handed over at once."""

AHEAD = 2 * WINDOW
"""Spans for whose nodes there is room: a sender waits to hear of it, and that message may queue behind spans."""

HEAD, BUFFERS, SPANS = 0, 1, 2
"""Tags of a round's messages; spans have two each from SPANS on."""


class Pending(Protocol):
    """A message on its way."""

    def wait(self) -> None:
        """Until it is there.

        Raises:
            HostGone: the other host does not answer any more.
        """


class Transport(Protocol):
    """Messages between hosts; what is sent may not change, and what is received not be read, before it is there."""

    def send(self, array: Array, host: int, tag: int) -> Pending:
        """Begin to send bytes."""

    def receive(self, array: Array, host: int, tag: int) -> Pending:
        """Begin to receive bytes."""


class HostGone(Exception):
    """Another host does not answer any more.

    Args:
        host: which.
        text: what the transport says.
    """

    def __init__(self, host: int, text: str) -> None:
        super().__init__(text)
        self.host = host


class SentTooEarly(Exception):
    """A gradient came twice, and its first part was sent; nobody has used it yet."""


class Exchange:
    """The exchanges of one host.

    Args:
        state: its shared state.
        transport: the way to the others.
        host: its number.
        hosts: how many there are.
    """

    def __init__(self, state: HostState, transport: Transport, host: int, hosts: int) -> None:
        self._state, self._segment, self._layout = state, state.segment, state.layout
        self._transport, self._host = transport, host
        self._others = [other for other in range(hosts) if other != host]
        self._hosts = hosts
        self._spans = spans([region.length for region in state.layout.regions], hosts)
        self._agreement = Agreement(state)
        self._complete = Complete(state)
        self._needed = [self._reached_with(span) for span in self._spans]
        self._adder = TreeAdder()
        self._rooms: dict[tuple[int, int, int], Array] = {}
        self._of_one: set[tuple[int, int]] = set()

    def round(self, plan: Plan, round_: Round, total: int) -> None:
        """Exchange what the round needs.

        Args:
            plan: the plan in force; it shares the microbatches out among the hosts.
            round_: its round.
            total: non-empty microbatches.
        """
        training, nodes = round_.evaluation is None, nodes_of(plan.hosts, total)
        owned = {node: (host, index) for host, own in enumerate(nodes) for index, node in enumerate(own)}
        local = partial_sums(plan, total)
        self._of_one = {place for node, place in local.items() if node.level == 0}
        mine, counts = [expression(total, local, node) for node in nodes[self._host]], [len(own) for own in nodes]
        tree = expression(total, owned)
        self._complete.begin(plan)
        tag = SPANS + 2 * len(self._spans) * (plan.round & 1)
        if training and swapped(nodes):
            self._swap(mine, tag)
        elif training:
            self._gradients(mine, counts, tree, tag)
        self._complete.wait_for_all()
        if not self._complete.was_sound:
            raise SentTooEarly
        changed = self._heads(plan, total, training, mine)
        if changed.any():
            self._buffers(plan, changed, mine, counts, tree)

    # -- small things --------------------------------------------------------------------------------------

    def _heads(self, plan: Plan, total: int, training: bool, mine: Sequence[Any]) -> Array:
        """Exchange rows, marks and wishes; returns which buffers changed anywhere."""
        table, used = self._segment["table"], self._segment["used"]
        control = self._state.control
        wishes = np.array(
            [len(self._state.plans.seats()), control.get(Control.STOP), control.get(Control.ASKED)], np.int64
        )
        marks = np.zeros((2, max(used.shape[1], len(self._layout.description.buffers))), np.uint8)
        if training:
            np.bitwise_or.reduce(used[: plan.slots], axis=0, out=marks[0, : used.shape[1]])
            for buffer in self._leaves(mine):
                flags = self._segment[f"buffer_changed/{buffer[0]}"][buffer[1]]
                marks[1, : len(flags)] |= flags != 0

        def rows(host: int) -> slice:
            return slice(min(plan.hosts[host], total), min(plan.hosts[host + 1], total))

        own = np.concatenate([_bytes(wishes), _bytes(table[rows(self._host)]), _bytes(marks)])
        came = {
            host: np.empty(wishes.nbytes + _bytes(table[rows(host)]).size + marks.nbytes, np.uint8)
            for host in self._others
        }
        self._each_to_each(own, came, HEAD)
        workers, shutdowns, asked = [0] * self._hosts, [0] * self._hosts, int(wishes[2])
        workers[self._host], shutdowns[self._host] = int(wishes[0]), int(wishes[1])
        others = np.zeros(used.shape[1], np.uint8)
        changed = marks[1].copy()
        for host, data in came.items():
            theirs, rest = data[: wishes.nbytes].view(np.int64), data[wishes.nbytes :]
            workers[host], shutdowns[host], asked = int(theirs[0]), int(theirs[1]), max(asked, int(theirs[2]))
            target = table[rows(host)]
            target[...] = rest[: target.nbytes].view(table.dtype).reshape(target.shape)
            their_marks = rest[target.nbytes :].reshape(marks.shape)
            others |= their_marks[0, : used.shape[1]]
            changed |= their_marks[1]
        used[-1] = others if training else 0
        self._agreement.agree(workers, shutdowns, asked)
        found: Array = changed[: len(self._layout.description.buffers)]
        return found

    def _each_to_each(self, own: Array, came: dict[int, Array], tag: int) -> None:
        received = [self._transport.receive(data, host, tag) for host, data in came.items()]
        sent = [self._transport.send(own, host, tag) for host in self._others if own.size]
        for pending in (*received, *sent):
            pending.wait()

    def _buffers(self, plan: Plan, changed: Array, mine: Sequence[Any], counts: Sequence[int], tree: Any) -> None:
        """Sum the floating-point buffers that changed; the others' values come from the first microbatch's host."""
        specs = self._layout.description.buffers
        places, first, at = [], [], 0
        for index, spec in enumerate(specs):
            size = int(np.prod(spec.shape, dtype=np.int64))
            if spec.dtype in FLOATING:
                places += [slice(at, at + size)] if changed[index] else []
                at += size
            elif changed[index]:
                first.append(self._segment[f"buffer_first/{index}"])
        elements = sum(place.stop - place.start for place in places)
        begins = next(host for host in range(self._hosts) if plan.hosts[host + 1])  # with the first microbatch
        whole = sum(array.nbytes for array in first)

        def size_of(host: int) -> int:
            return counts[host] * elements * 8 + (whole if host == begins else 0)

        out = np.empty(at, np.float64)
        sums = [
            self._adder(each, lambda pipe, buffer: self._segment[f"buffer_sums/{pipe}"][buffer], out).copy()
            for each in mine
        ]
        parts = [_bytes(values[place]) for values in sums for place in places]
        parts += [_bytes(array) for array in first] if self._host == begins else []
        own = np.concatenate(parts) if parts else np.empty(0, np.uint8)
        came = {host: np.empty(size_of(host), np.uint8) for host in self._others if size_of(host)}
        self._each_to_each(own, came, BUFFERS)
        came[self._host] = own
        if self._host != begins:
            self._take_first(first, came[begins][counts[begins] * elements * 8 :])

        def leaf(host: int, node: int) -> Array:
            return came[host][node * elements * 8 : (node + 1) * elements * 8].view(np.float64)

        self._segment[f"buffer_changed/{ALL_HOSTS}"][0, : len(specs)] = changed
        if not elements:
            return
        total, taken = self._adder(tree, leaf, np.empty(elements)), 0
        target = self._segment[f"buffer_sums/{ALL_HOSTS}"][0]
        for place in places:
            target[place] = total[taken : taken + place.stop - place.start]
            taken += place.stop - place.start

    def _take_first(self, arrays: Sequence[Array], data: Array) -> None:
        at = 0
        for array in arrays:
            array[...] = data[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
            at += array.nbytes

    def _leaves(self, trees: Sequence[Any]) -> Iterator[tuple[int, int]]:
        for tree in trees:
            if isinstance(tree[0], int):
                yield tree
            else:
                yield from self._leaves(tree)

    # -- gradients -----------------------------------------------------------------------------------------

    def _swap(self, mine: Sequence[Any], tag: int) -> None:
        """This host's node to the other one, a window of spans at once, and its from there: who updates adds them."""
        (other,) = self._others
        came = [self._transport.receive(self._sum(span), other, tag + n) for n, span in enumerate(self._spans)]
        leaving: deque[Pending] = deque()
        for number in range(len(self._spans)):
            if number >= WINDOW:
                leaving.popleft().wait()
            leaving += [self._transport.send(values, other, tag + number) for values in self._own(number, mine)]
        for each in (*leaving, *came):
            each.wait()

    def _gradients(self, mine: Sequence[Any], counts: Sequence[int], tree: Any, tag: int) -> None:
        """Nodes to each span's host, sums back from it; a window of spans is on its way at any time."""
        returned = [
            self._transport.receive(self._sum(span), span.host, tag + 2 * number + 1)
            for number, span in enumerate(self._spans) if span.host != self._host
        ]  # fmt: skip
        arriving: deque[tuple[list[Pending], dict[tuple[int, int], Array]]] = deque()
        leaving: deque[list[Pending]] = deque()
        sums: list[Pending] = []
        for number, span in enumerate(self._spans):
            for ahead in self._entering(number, AHEAD):
                arriving.append(self._expect(ahead, counts, tag + 2 * ahead))
            for ahead in self._entering(number, WINDOW):
                leaving.append(self._hand_over(ahead, mine, tag + 2 * ahead))
            pending, nodes = arriving.popleft()
            for each in (*pending, *leaving.popleft()):
                each.wait()
            if span.host == self._host:
                self._add_up(number, tree, mine, nodes)
                total = self._sum(span)
                sums += [self._transport.send(total, host, tag + 2 * number + 1) for host in self._others]
        for each in (*returned, *sums):
            each.wait()

    def _entering(self, number: int, window: int) -> range:
        """The spans that come into a window as a span's turn comes."""
        return range(number + window - 1 if number else 0, min(number + window, len(self._spans)))

    def _expect(
        self, number: int, counts: Sequence[int], tag: int
    ) -> tuple[list[Pending], dict[tuple[int, int], Array]]:
        """Begin to receive the others' nodes of a span of this host's."""
        span = self._spans[number]
        if span.host != self._host:
            return [], {}
        nodes = {
            (host, node): self._room(number, span, host, node)
            for host in self._others for node in range(counts[host])
        }  # fmt: skip
        return [self._transport.receive(array, host, tag) for (host, _), array in nodes.items()], nodes

    def _hand_over(self, number: int, mine: Sequence[Any], tag: int) -> list[Pending]:
        """Begin to send this host's nodes of another's span."""
        span = self._spans[number]
        if span.host == self._host:
            return []
        return [self._transport.send(values, span.host, tag) for values in self._own(number, mine)]

    def _own(self, number: int, mine: Sequence[Any]) -> list[Array]:
        """This host's nodes of a span, once they are complete."""
        span = self._spans[number]
        while True:
            attempts = self._complete.wait_for(self._needed[number])
            values = []
            for node, each in enumerate(mine):
                room = self._room(number, span, self._host, node)
                found = self._adder(each, self._partial(span), room)
                # A successor of who computes may write there again: of one microbatch the same bits, else half a sum.
                if attempts and found is not room and each not in self._of_one:
                    room[...] = found
                    found = room
                values.append(found)
            if self._complete.holds(attempts):
                return values

    def _reached_with(self, span: Span) -> int:
        """How many parameters' gradients, from the last one on, a span takes; none where it lies between two."""
        parameters, total = self._layout.regions[span.region].parameters, len(self._layout.description.parameters)
        found = [each.number for each in parameters if each.offset < span.stop and each.end > span.start]
        return total - min(found, default=total)

    def _add_up(self, number: int, tree: Any, mine: Sequence[Any], nodes: dict[tuple[int, int], Array]) -> None:
        """The sum of a span over all hosts."""
        span, own = self._spans[number], self._own(number, mine)

        def leaf(host: int, node: int) -> Array:
            return own[node] if host == self._host else nodes[host, node]

        out = self._sum(span)
        total = self._adder(tree, leaf, out)
        if total is not out:
            out[...] = total

    def _partial(self, span: Span) -> Callable[[int, int], Array]:
        def leaf(pipe: int, buffer: int) -> Array:
            return self._segment[f"gradients/{pipe}/{span.region}"][buffer, span.start : span.stop]

        return leaf

    def _sum(self, span: Span) -> Array:
        return self._segment[f"gradients/{ALL_HOSTS}/{span.region}"][0, span.start : span.stop]

    def _room(self, number: int, span: Span, host: int, node: int) -> Array:
        """Memory for a node of a span while it is on its way."""
        dtype = np.dtype(self._layout.regions[span.region].dtype)
        key = (number % AHEAD, host, node)
        needed = (span.stop - span.start) * dtype.itemsize
        if key not in self._rooms or self._rooms[key].size < needed:
            self._rooms[key] = np.empty(needed, np.uint8)
        return self._rooms[key][:needed].view(dtype)


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
