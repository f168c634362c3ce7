"""The process that speaks to the other hosts: `python -m unisono.cluster.link FILE PARENT`.

It is as disposable as a worker. Where another host is lost it says so and waits to be killed; the next generation's
hosts get a new one. Bytes travel by torch.distributed (gloo), bound to the one interface.
"""

from __future__ import annotations

import socket
import sys
import time
from datetime import timedelta
from typing import Any

from unisono.cluster.complete import SPIN_SECONDS
from unisono.cluster.exchange import Exchange, HostGone, Pending, SentTooEarly
from unisono.cluster.link_setup import Setup
from unisono.cluster.meeting import Store
from unisono.cluster.snapshot import state_arrays, state_digest
from unisono.errors import JobError
from unisono.frameworks.protocol import Array
from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.runtime.channel import Channel
from unisono.runtime.lifeline import die_with_parent
from unisono.runtime.protocol import Plan, in_force
from unisono.runtime.state import Control, HostState

NEVER = timedelta(days=365)
"""Messages have no time limit of their own: a slow host is no lost one, and the beats tell them apart."""

LOOK_SECONDS = 0.001
MOST_BYTES = 1 << 26
"""Of one message of a state on its way to a host that falls in."""


class _Work:
    """A message of torch.distributed on its way; keeps its memory alive."""

    def __init__(self, work: Any, tensor: Any, host: int) -> None:
        self._work, self._tensor, self._host = work, tensor, host

    def wait(self) -> None:
        try:
            self._work.wait(NEVER)
        except RuntimeError as error:
            raise HostGone(self._host, str(error).splitlines()[0]) from error


class GlooTransport:
    """Messages by gloo.

    Args:
        store: where its processes find each other.
        address: the address that it listens on.
        host, hosts: which one this is, of how many.
    """

    def __init__(self, store: Any, address: str, host: int, hosts: int) -> None:
        from torch import from_numpy
        from torch.distributed import ProcessGroupGloo

        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname=address)]
        options._timeout = timedelta(seconds=60)  # to find each other; messages wait without a limit
        self._group = ProcessGroupGloo(store, host, hosts, options)
        self._from_numpy = from_numpy

    def send(self, array: Array, host: int, tag: int) -> Pending:
        """See `Transport`."""
        return self._begin(self._group.send, array, host, tag)

    def receive(self, array: Array, host: int, tag: int) -> Pending:
        """See `Transport`."""
        return self._begin(self._group.recv, array, host, tag)

    def _begin(self, act: Any, array: Array, host: int, tag: int) -> Pending:
        tensor = self._from_numpy(array.reshape(-1).view("uint8"))
        try:
            return _Work(act([tensor], host, tag), tensor, host)
        except RuntimeError as error:
            raise HostGone(host, str(error).splitlines()[0]) from error


class Link:
    """This host's end.

    Args:
        setup: who is there.
        state: this host's shared state.
        transport: the way to the others.
    """

    def __init__(self, setup: Setup, state: HostState, transport: GlooTransport) -> None:
        self._setup, self._state, self._transport = setup, state, transport
        self._exchange = Exchange(state, transport, setup.host, setup.hosts)
        self._committed = Words(state.segment, "committed", SPIN_SECONDS)

    def equalise(self) -> None:
        """Give the source's state to who needs it.

        Raises:
            JobError: it did not arrive as it was sent.
        """
        setup, state = self._setup, self._state
        if setup.host not in (setup.source, *setup.receivers):
            return
        pending = []
        for array in state_arrays(state, setup.program, setup.rounds):
            for at in range(0, array.size, MOST_BYTES):
                part = array[at : at + MOST_BYTES]
                if setup.host == setup.source:
                    pending += [self._transport.send(part, host, 0) for host in setup.receivers]
                else:
                    pending.append(self._transport.receive(part, setup.source, 0))
        for each in pending:
            each.wait()
        found = state_digest(state, setup.program, setup.rounds)
        if found != setup.digest:
            raise JobError(f"a state must arrive as it was sent; its digest is {found}, not {setup.digest}.")

    def run(self) -> None:
        """Exchange round by round until a plan says stop."""
        while True:
            plan = in_force(self._state.plans(), self._committed.get)
            if plan is None:
                time.sleep(LOOK_SECONDS)
                continue
            if plan.stop:
                return
            if plan.hosts:
                self._round(plan)
            for slot in range(plan.slots):
                self._committed.wait(slot, plan.round + 1)

    def _round(self, plan: Plan) -> None:
        round_ = self._setup.program.at(plan.round)
        self._exchange.round(plan, round_, self._setup.program.nonempty(round_))
        self._state.control.publish(Control.EXCHANGED, plan.round + 1)


def main(file: int, parent: int) -> None:
    """Meet the others, make the states equal, exchange; the channel hears "ready", then "lost", "early" or "done"."""
    die_with_parent(parent)
    channel = Channel(socket.socket(fileno=file))
    setup, files = channel.receive()
    state = HostState(setup.layout, Segment(files[0], setup.layout.segment))
    try:
        store = Store(setup.place, setup.address, serve=False, timeout=setup.timeout)
        from torch.distributed import PrefixStore

        link = Link(
            setup, state,
            GlooTransport(PrefixStore(f"gloo/{setup.generation}", store.raw), setup.address, setup.host, setup.hosts),
        )  # fmt: skip
        link.equalise()
        channel.send(("ready", None, ""))
        link.run()
        channel.send(("done", None, ""))
    except HostGone as error:
        channel.send(("lost", error.host, str(error)))
    except SentTooEarly:
        channel.send(("early", None, "a gradient came in two parts: from now on sums are sent when they are whole"))
    except (RuntimeError, JobError) as error:  # gloo could not connect everybody, or a state came damaged
        channel.send(("lost", None, str(error).splitlines()[0]))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
