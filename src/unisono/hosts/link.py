"""The process that speaks to the other hosts: `python -m unisono.hosts.link FILE PARENT`.

It is as disposable as a worker. Where another host is lost it says so and waits to be killed; the next generation's
hosts get a new one. Bytes travel by torch.distributed (gloo), bound to the one interface.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from unisono.errors import JobError
from unisono.frameworks.protocol import Array
from unisono.hosts.exchange import Exchange, SentTooEarly
from unisono.hosts.gloo import GlooTransport, Unreachable
from unisono.hosts.link_client import Setup, Word
from unisono.hosts.snapshot import state_arrays, state_digest, tree_arrays, tree_words
from unisono.hosts.store import torch_distributed
from unisono.hosts.transport import ConnectionLost, wait_for
from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.runtime.processes.channel import Channel, joined
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
        self._generation, self._program = setup.generation, setup.program
        self._state, self._transport = state, transport
        self._own = setup.generation.own or 0
        self._exchange = Exchange(state, transport, self._own, len(setup.generation.hosts))
        self._committed = Words(state.segment, "committed")  # waits are long: who computes needs the core

    def equalise(self) -> None:
        """Give the source's state to who needs it.

        Raises:
            JobError: it did not arrive as it was sent.
        """
        source, receivers = self._generation.source, self._generation.receivers
        if self._own not in (source, *receivers):
            return
        wanted = self._generation.hosts[source]
        at = self._state, self._program.position(wanted["rounds"])[0]
        for arrays in (state_arrays, tree_words, tree_arrays):  # in turn: words say how large the arrays are
            self._give(arrays(*at), source, receivers)
        try:
            found = state_digest(*at)
        except Exception as error:  # it is parsed: bytes that are none may fail in any way
            raise JobError(f"a state must arrive as it was sent; it cannot be read ({error}).") from error
        if found != wanted["digest"]:
            raise JobError(f"a state must arrive as it was sent; its digest is {found}, not {wanted['digest']}.")

    def _give(self, arrays: Sequence[Array], source: int, receivers: Sequence[int]) -> None:
        """Send arrays from the source to who needs them, and wait until they are there."""
        pending = []
        for array in arrays:
            for at in range(0, array.size, MOST_BYTES):
                part = array[at : at + MOST_BYTES]
                if self._own == source:
                    pending += [self._transport.send(part, host, 0) for host in receivers]
                else:
                    pending.append(self._transport.receive(part, source, 0))
        wait_for(pending)

    def run(self) -> None:
        """Exchange round by round until a plan says stop."""
        while not (plan := self._plan()).stop:
            if plan.hosts:
                round_ = self._program.at(plan.round)
                self._exchange.round(plan, round_, self._program.nonempty(round_))
                self._state.control.publish(Control.EXCHANGED, plan.round + 1)
            for slot in range(plan.slots):
                self._committed.wait(slot, plan.round + 1)

    def _plan(self) -> Plan:
        """That of the round at hand, once it is there."""
        while (plan := self._state.plans.in_force()) is None:
            time.sleep(LOOK_SECONDS)
        return plan


def main(channel: Channel) -> None:
    """Meet the others, make the states equal, exchange; the channel hears how far that is (see `Word`)."""
    setup: Setup
    setup, files = channel.receive()
    state = HostState(setup.layout, Segment(files[0], setup.layout.segment))
    at, generation = setup.store, setup.generation
    try:
        where = torch_distributed().PrefixStore("gloo/{}/{}".format(*generation.number), at.client().raw)
        own, count = generation.own or 0, len(generation.hosts)
        transport = GlooTransport(where, at.own, own, count, at.timeout, setup.ports)
        transport.meet()
        channel.send(Word("met"))
        channel.receive()  # the supervisor has noted that the state may change from now on
        link = Link(setup, state, transport)
        link.equalise()
        channel.send(Word("ready"))
        link.run()
        channel.send(Word("done"))
        return
    except ConnectionLost as error:
        word = Word("lost", (error.host,), str(error))
    except Unreachable as error:
        word = Word("unreachable", error.hosts, str(error))
    except SentTooEarly:
        word = Word("early", why="a gradient came in two parts: from now on sums are sent when they are whole")
    except (RuntimeError, JobError) as error:  # the store is gone, or a state came damaged
        word = Word("lost", why=str(error).splitlines()[0])
    channel.send(word)
    with suppress(EOFError, ConnectionError):
        channel.receive()  # to be killed: the connections to all others hold until they have been called


if __name__ == "__main__":
    main(joined())
