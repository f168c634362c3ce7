"""The process that exchanges with the other hosts, as the supervisor sees it, which starts and ends it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from unisono.hosts.generation import Generation
from unisono.hosts.store import StoreAddress
from unisono.memory.segment import Segment
from unisono.runtime.processes.channel import started
from unisono.runtime.processes.start import POOLS
from unisono.runtime.rules.rounds import Program
from unisono.runtime.state.layout import HostLayout
from unisono.runtime.supervisor.answers import readable

LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Setup:
    """What a link begins with.

    Attributes:
        store: where hosts meet.
        ports: those on which this host may listen, or None.
        generation: the hosts.
        layout, program: what they share.
    """

    store: StoreAddress
    ports: range | None
    generation: Generation
    layout: HostLayout
    program: Program


class Word(NamedTuple):
    """What a link says.

    Attributes:
        verb: "met", then "ready", then "done"; or what has come between: "lost", "unreachable", "early", "ended".
        hosts: the places of the hosts that it cannot reach.
        why: what the transport says.
    """

    verb: str
    hosts: tuple[int, ...] = ()
    why: str = ""


class LinkClient:
    """A link of one generation.

    Args:
        setup: what it begins with.
        segment: this host's shared memory.

    Attributes:
        socket: readable where it has said something.
    """

    def __init__(self, setup: Setup, segment: Segment) -> None:
        variables = {**os.environ, **dict.fromkeys(POOLS, "1")}
        self._process, self._channel = started("unisono.hosts.link", env=variables, process_group=0)
        self._channel.send(setup, [segment.file])
        self.socket = self._channel.socket

    def go_on(self) -> None:
        """It may change the state from now on."""
        with suppress(ConnectionError):  # it has died, as will be heard
            self._channel.send("go on")

    def wait(self, given_up: Callable[[], bool]) -> bool:
        """Return once it says something; whether it does before it is given up."""
        while not readable(self.socket.fileno(), LOOK_SECONDS):
            if given_up():
                return False
        return True

    def word(self) -> Word:
        """What it says."""
        try:
            word: Word
            word, _ = self._channel.receive()
        except (EOFError, ConnectionError):
            return Word("ended")
        return word

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._channel.close()
