"""The process that speaks to the other hosts: `python -m unisono.hosts.link FILE PARENT`.

It is as disposable as a worker. Where another host is lost it says so and waits to be killed; the next generation's
hosts get a new one. Bytes travel by torch.distributed (gloo), bound to the one interface.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from unisono.errors import JobError
from unisono.frameworks.protocol import Array
from unisono.hosts.exchange import Exchange, HostGone, SentTooEarly
from unisono.hosts.gloo import GlooTransport, Torn
from unisono.hosts.link_setup import Setup
from unisono.hosts.snapshot import state_arrays, state_digest, tree_arrays, tree_words
from unisono.hosts.store import Store, torch_distributed
from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.runtime.processes.channel import Channel
from unisono.runtime.processes.lifeline import die_with_parent
from unisono.runtime.rules.plan import Plan
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_state import HostState

LOOK_SECONDS = 0.001
MOST_BYTES = 1 << 26
"""Of one message of a state on its way to a host that falls in."""


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
        self._committed = Words(state.segment, "committed", 0.0)  # waits are long: who computes needs the core

    def equalise(self) -> None:
        """Give the source's state to who needs it.

        Raises:
            JobError: it did not arrive as it was sent.
        """
        setup, state = self._setup, self._state
        if setup.host not in (setup.source, *setup.receivers):
            return
        self._give(state_arrays(state, setup.program, setup.rounds))
        self._give(tree_words(state, setup.program, setup.rounds))
        self._give(tree_arrays(state, setup.program, setup.rounds))
        try:
            found = state_digest(state, setup.program, setup.rounds)
        except Exception as error:  # it is parsed: bytes that are none may fail in any way
            raise JobError(f"a state must arrive as it was sent; it cannot be read ({error}).") from error
        if found != setup.digest:
            raise JobError(f"a state must arrive as it was sent; its digest is {found}, not {setup.digest}.")

    def _give(self, arrays: Sequence[Array]) -> None:
        """Send arrays from the source to who needs them, and wait until they are there."""
        setup = self._setup
        pending = []
        for array in arrays:
            for at in range(0, array.size, MOST_BYTES):
                part = array[at : at + MOST_BYTES]
                if setup.host == setup.source:
                    pending += [self._transport.send(part, host, 0) for host in setup.receivers]
                else:
                    pending.append(self._transport.receive(part, setup.source, 0))
        for each in pending:
            each.wait()

    def run(self) -> None:
        """Exchange round by round until a plan says stop."""
        while True:
            plan = self._state.plans.in_force()
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
    """Meet the others, make the states equal, exchange; the channel hears "met", then "ready", then "done".

    Instead of each of them it may hear of what has come between: "lost", "torn" or "early".
    """
    die_with_parent(parent)
    channel = Channel(socket.socket(fileno=file))
    setup, files = channel.receive()
    state = HostState(setup.layout, Segment(files[0], setup.layout.segment))
    lost: tuple[str, tuple[int, ...], str]
    try:
        store = Store(setup.place, setup.address, serve=False, timeout=setup.timeout)
        where = torch_distributed().PrefixStore("gloo/{}/{}".format(*setup.generation), store.raw)
        transport = GlooTransport(where, setup.address, setup.host, setup.hosts, setup.timeout, setup.ports)
        transport.meet()
        channel.send(("met", (), ""))
        channel.receive()  # the supervisor has noted that the state may change from now on
        link = Link(setup, state, transport)
        link.equalise()
        channel.send(("ready", (), ""))
        link.run()
        channel.send(("done", (), ""))
        return
    except HostGone as error:
        lost = ("lost", (error.host,), str(error))
    except Torn as error:
        lost = ("torn", error.hosts, str(error))
    except SentTooEarly:
        lost = ("early", (), "a gradient came in two parts: from now on sums are sent when they are whole")
    except (RuntimeError, JobError) as error:  # the store is gone, or a state came damaged
        lost = ("lost", (), str(error).splitlines()[0])
    channel.send(lost)
    with suppress(EOFError, ConnectionError):
        channel.receive()  # to be killed: the connections to all others hold until they have been called


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
