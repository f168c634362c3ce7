"""What the process that speaks to the other hosts begins with."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.hosts.place import Place
from unisono.runtime.rules.rounds import Program
from unisono.runtime.state.layout import HostLayout


@dataclass(frozen=True)
class Setup:
    """What a link begins with.

    Attributes:
        place: where hosts meet.
        address: this host's address on the interface between hosts.
        timeout: seconds that the store may take to answer, and other hosts.
        ports: those on which this host may listen, or None.
        generation: of which hosts, as in `Generation`.
        host, hosts: which one this is, of how many.
        layout, program: what they share.
        rounds: rounds done where the hosts begin.
        source: the host whose state the others get.
        receivers: the hosts that need it.
        digest: that of the state.
    """

    place: Place
    address: str
    timeout: float
    ports: range | None
    generation: tuple[int, int]
    host: int
    hosts: int
    layout: HostLayout
    program: Program
    rounds: int
    source: int
    receivers: tuple[int, ...]
    digest: str
