"""A switch that holds every packet for a while, for kernels that cannot (`netem`): `python delay.py SECONDS PORT...`.

What comes in at a port goes out at all others, headers and all, so whatever the hosts say to each other is late: no
connection has to be known. It says "ready" once it listens.
"""

from __future__ import annotations

import socket
import sys
from collections import deque
from collections.abc import Sequence
from selectors import EVENT_READ, DefaultSelector
from time import monotonic

EVERYTHING = 0x0003  # ETH_P_ALL
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23  # linux/if_packet.h
SO_RCVBUFFORCE = 33
MOST_BYTES = 1 << 17
"""More than a packet of 64 KiB, which leaves a host uncut: what is before it says how to cut it, and sum it up."""

QUEUE_BYTES = 64 << 20


def listening(port: str) -> socket.socket:
    """All that comes in at a port, and the way out there."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERYTHING))
    opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    opened.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
    opened.bind((port, EVERYTHING))
    return opened


def carry(seconds: float, ports: Sequence[str]) -> None:
    """Carry packets for ever."""
    sockets = [listening(port) for port in ports]
    held: deque[tuple[float, socket.socket, bytes]] = deque()
    print("ready", flush=True)
    with DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, EVENT_READ)
        while True:
            for key, _ in selector.select(max(0.0, held[0][0] - monotonic()) if held else None):
                source = key.fileobj
                assert isinstance(source, socket.socket)
                held.append((monotonic() + seconds, source, source.recv(MOST_BYTES)))
            while held and held[0][0] <= monotonic():
                _, source, packet = held.popleft()
                for other in sockets:
                    if other is not source:
                        other.send(packet)


if __name__ == "__main__":
    carry(float(sys.argv[1]), sys.argv[2:])
