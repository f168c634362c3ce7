"""Wakes all workers at once, when all that they are asked is on its way.

Each message would wake its reader, who may take the core that the next message is written on.
"""

from __future__ import annotations

import select

from unisono.memory.segment import Segment, SegmentLayout
from unisono.memory.words import Words
from unisono.runtime.processes.channel import Channel
from unisono.scripts.pytorch.spaces import Space

_LAYOUT = SegmentLayout()
_LAYOUT.add("bell", "int64", (1, 8))

_LOOK_SECONDS = 1.0
"""For what nobody rings for: something that is only said, or a closed channel."""


class Bell:
    """A word in shared memory that counts.

    Args:
        space: where it lies.

    Attributes:
        space: the same.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._words = Words(Segment(space.file, _LAYOUT), "bell")

    def ring(self) -> None:
        """Wake everybody; messages are in their channels."""
        self._words.publish(0, self._words.get(0) + 1)

    def wait(self, channel: Channel) -> None:
        """Sleep until there is a message, or the channel is closed."""
        poll = select.poll()
        poll.register(channel.socket, select.POLLIN)
        while not poll.poll(0):
            self._words.wait(0, self._words.get(0) + 1, lambda: bool(poll.poll(0)), _LOOK_SECONDS)
