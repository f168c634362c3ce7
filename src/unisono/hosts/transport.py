"""Messages between hosts: what an exchange asks of whatever carries them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from unisono.frameworks.protocol import Array


class Pending(Protocol):
    """A message on its way."""

    def wait(self) -> None:
        """Until it is there.

        Raises:
            ConnectionLost: the other host does not answer any more.
        """


def wait_for(messages: Iterable[Pending]) -> None:
    """Until all of them are there."""
    for message in messages:
        message.wait()


class Transport(Protocol):
    """Messages between hosts; what is sent may not change, and what is received not be read, before it is there."""

    def send(self, array: Array, host: int, tag: int) -> Pending:
        """Begin to send bytes."""

    def receive(self, array: Array, host: int, tag: int) -> Pending:
        """Begin to receive bytes."""


class ConnectionLost(Exception):
    """Another host does not answer any more.

    Args:
        host: which.
        text: what the transport says.
    """

    def __init__(self, host: int, text: str) -> None:
        super().__init__(text)
        self.host = host
