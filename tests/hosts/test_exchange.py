"""The exchange between hosts, in this process: any shares end with the sums of one host, on every host."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from products import DESCRIPTION, shape
from sums import along
from unisono.frameworks.protocol import TensorSpec
from unisono.gradients.hosts import host_shares, spans
from unisono.gradients.tree import Node, expression, fold
from unisono.hosts.exchange import Exchange
from unisono.memory.segment import Segment
from unisono.partition.batches import Batches
from unisono.runtime.rules.folding import ALL_HOSTS, folding
from unisono.runtime.rules.plan import Plan, even
from unisono.runtime.rules.rounds import Program
from unisono.runtime.state.backward_progress import BackwardProgress
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_shares import HostShares
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import FLOATING, host_layout
from waiting import limit

ROUND = 2
BUFFERS = (
    TensorSpec("mean", (3,), "float32"), TensorSpec("count", (2,), "int64"), TensorSpec("var", (2,), "float64"),
    TensorSpec("seen", (3,), "int32"), TensorSpec("scale", (2,), "float32"),
)  # fmt: skip
BUFFERED = replace(DESCRIPTION, buffers=BUFFERS)
ALL = (True,) * len(BUFFERS)
Mail = dict[tuple[int, ...], queue.Queue[bytes]]


@dataclass
class Now:
    """Sent as soon as it is given away."""

    def wait(self) -> None:
        """It is there."""


@dataclass
class Later:
    """A message that may not have come yet."""

    box: queue.Queue[bytes]
    array: Any

    def wait(self) -> None:
        """Until it is there."""
        data = np.frombuffer(self.box.get(timeout=limit()), np.uint8)
        self.array.reshape(-1).view(np.uint8)[:] = data


class Post:
    """The way from one host to the others."""

    def __init__(self, mail: Mail, host: int) -> None:
        self._mail, self._host = mail, host

    def send(self, array: Any, host: int, tag: int) -> Now:
        """See `Transport`."""
        self._box(self._host, host, tag).put(array.tobytes())
        return Now()

    def receive(self, array: Any, host: int, tag: int) -> Later:
        """See `Transport`."""
        return Later(self._box(host, self._host, tag), array)

    def _box(self, *way: int) -> queue.Queue[bytes]:
        return self._mail.setdefault(way, queue.Queue())  # atomic, unlike a defaultdict's


class Written(Post):
    """Sends when it is waited for; by then a successor has begun to write again what is not of one microbatch."""

    def __init__(self, mail: Mail, host: int, state: HostState, sums: slice) -> None:
        super().__init__(mail, host)
        self._state, self._sums = state, sums

    def send(self, array: Any, host: int, tag: int) -> Any:
        """See `Transport`."""
        self._state.segment["gradients/0/0"][0, self._sums] = np.nan
        return Slow(self, array, host, tag)

    def put(self, array: Any, host: int, tag: int) -> None:
        """Send it; the successor has done the rest."""
        super().send(array, host, tag)
        self._state.segment["summed"][:, 0] = ROUND + 1


@dataclass
class Slow:
    """A message that has not been read yet."""

    post: Written
    array: Any
    host: int
    tag: int

    def wait(self) -> None:
        """Read it."""
        self.post.put(self.array, self.host, self.tag)


class Leaves:
    """What every microbatch of the round gives, whoever computes it."""

    def __init__(self, microbatches: int, layout: Any, changed: tuple[bool, ...] = ALL) -> None:
        generator = np.random.default_rng(0)
        area = layout.segment.areas
        lengths = {name: area[f"{name}/0" if name != "gradients" else "gradients/0/0"].shape[1]
                   for name in ("gradients", "buffer_sums", "buffer_changed")}  # fmt: skip
        self.gradients = generator.normal(size=(microbatches, lengths["gradients"])).astype(np.float32)
        self.buffer_sums = generator.normal(size=(microbatches, lengths["buffer_sums"]))
        self.buffer_changed = np.zeros((microbatches, lengths["buffer_changed"]))
        self.buffer_changed[0] = changed  # by the first microbatch alone: the others' values count all the same
        self.first = {1: np.array([7, 9]), 3: np.array([1, 2, 3])}
        self.table = generator.normal(size=(microbatches, area["table"].shape[1]))


def host_state(leaves: Leaves, plan: Plan, total: int, layout: Any, host: int) -> HostState:
    """A host whose pipes have computed its share."""
    state = HostState(layout, Segment.create(layout.segment))
    for pipe in range(plan.pipes):
        run = plan.share(pipe)
        for step in fold(min(run.start, total), min(run.stop, total), total).steps:
            for name, values in (
                (f"gradients/{pipe}/0", leaves.gradients), (f"buffer_sums/{pipe}", leaves.buffer_sums),
                (f"buffer_changed/{pipe}", leaves.buffer_changed),
            ):  # fmt: skip
                state.segment[name][step.buffer] = values[step.microbatch]
                for into, other in step.additions:
                    state.segment[name][into] += state.segment[name][other]
            state.segment["table"][step.microbatch] = leaves.table[step.microbatch]
            state.segment["used"][pipe, 0] = 1
            if step.microbatch == 0:
                for index, values in leaves.first.items():
                    state.segment[f"buffer_first/{index}"][...] = values
    state.segment["summed"][:, 0] = ROUND + 1
    state.plans.seat(plan.members)
    state.control.publish(Control.STOP, int(host == 1))
    return state


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 3), min_size=2, max_size=5), st.integers(5, 9), st.integers(0, 3),
    st.sampled_from([1 << 20, 1]), st.tuples(*[st.booleans()] * len(BUFFERS)),
)  # fmt: skip
@example([2, 2], 8, 0, 1, ALL)  # two hosts with one node each swap them
@example([1, 2, 1], 9, 0, 1, (False, *ALL[1:]))
def test_every_host_ends_with_the_sums_of_one(
    workers: list[int], microbatches: int, empty: int, most: int, changed: tuple[bool, ...]
) -> None:
    with patch.multiple("unisono.gradients.hosts", MOST_ELEMENTS=most, LEAST_ELEMENTS=1):  # few spans, or many
        _exchange(workers, microbatches, empty, changed)


def _exchange(workers: list[int], microbatches: int, empty: int, changed: tuple[bool, ...]) -> None:
    total = max(1, microbatches - empty)
    layout = host_layout(BUFFERED, shape(1, microbatches, microbatches))
    leaves = Leaves(microbatches, layout, changed)
    program = Program(Batches(total, microbatches, microbatches, False), ROUND + 1, None, ())
    shares = host_shares(microbatches, workers)
    mail: Mail = {}
    states, plans, threads = [], [], []
    for host, count in enumerate(workers):
        start, stop = shares[host : host + 2]
        boundaries = tuple(start + boundary for boundary in even(stop - start, count))
        plan = Plan(ROUND, boundaries, tuple(range(count)), hosts=shares)
        state = host_state(leaves, plan, total, layout, host)
        state.segment["used"][0, 1] = host == len(workers) - 1
        HostShares(state).begin(host, workers)
        exchange = Exchange(state, Post(mail, host), host, len(workers))
        threads.append(threading.Thread(target=exchange.round, args=(plan, program.at(ROUND), total)))
        states.append(state)
        plans.append(plan)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit())
        assert not thread.is_alive()
    used = [np.bitwise_or.reduce(state.segment["used"][:-1], axis=0) for state in states]
    folded = fold(0, total, total)
    whole = Plan(ROUND, (0, microbatches), (0,))
    alone = host_state(leaves, whole, total, layout, 0)
    tree = expression(total, {node: (0, buffer) for node, buffer in folded.final.items()})
    for host, (state, plan) in enumerate(zip(states, plans, strict=True)):
        trees = folding(plan, 0, total)

        def summed(name: str, tree: Any, at: Any) -> Any:
            return along(tree, lambda pipe, buffer: at[name.format(pipe)][buffer])

        gradients = summed("gradients/{}/0", trees.gradients, state.segment)
        assert np.array_equal(gradients, summed("gradients/{}/0", tree, alone.segment))
        flags = summed("buffer_changed/{}", trees.buffers, state.segment)[: len(changed)]
        assert (flags != 0).tolist() == list(changed)
        sums = summed("buffer_sums/{}", trees.buffers, state.segment)
        kept = np.repeat(changed, [spec.elements if spec.dtype in FLOATING else 0 for spec in BUFFERS])
        assert np.array_equal(sums[kept], summed("buffer_sums/{}", tree, alone.segment)[kept])
        for index, values in leaves.first.items():
            assert not changed[index] or np.array_equal(state.segment[f"buffer_first/{index}"], values)
        assert np.array_equal(state.segment["table"][:total], leaves.table[:total])
        assert np.array_equal(state.segment["used"][-1], np.bitwise_or.reduce(used[:host] + used[host + 1 :], axis=0))
        assert HostShares(state).stop
    for state in (*states, alone):
        state.segment.close()


def test_what_is_sent_early_stays_as_it_was() -> None:
    total, shares = 5, (0, 3, 5)  # host 0 has a sum of two microbatches and a single one
    layout = host_layout(BUFFERED, shape(1, total, total))
    leaves, mail = Leaves(total, layout), Mail()
    program = Program(Batches(total, total, total, False), ROUND + 1, None, ())
    plans = [Plan(ROUND, shares[host : host + 2], (0,), hosts=shares) for host in (0, 1)]
    states = [host_state(leaves, plan, total, layout, host) for host, plan in enumerate(plans)]
    for host, state in enumerate(states):
        HostShares(state).begin(host, [1, 1])
    states[0].segment["summed"][:, 0] = ROUND
    progress = BackwardProgress(states[0])
    progress.begin(0, ROUND)
    progress.whole(0)
    theirs = next(span for span in spans([layout.regions[0].length], 2) if span.host == 1)
    posts = (Written(mail, 0, states[0], slice(theirs.start, theirs.stop)), Post(mail, 1))
    threads = []
    for host, plan in enumerate(plans):
        exchange = Exchange(states[host], posts[host], host, 2)
        threads.append(threading.Thread(target=exchange.round, args=(plan, program.at(ROUND), total)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit())
        assert not thread.is_alive()
    expected = along(expression(total, {Node(0, k): (k,) for k in range(total)}), lambda k: leaves.gradients[k])
    for state in states:
        assert np.array_equal(state.segment[f"gradients/{ALL_HOSTS}/0"][0], expected)
        state.segment.close()
