"""What has become of a process's device."""

from __future__ import annotations


class DeviceFailed(Exception):
    """A device can't go on, and its process ends with it, as by a death: what was there is lost, and nobody else's.

    Args:
        text: what it says.
        memory: whether its memory did not suffice.
    """

    def __init__(self, text: str, memory: bool = False) -> None:
        super().__init__(text)
        self.memory = memory
