"""Who inherits a dead worker's slots, by its number."""

from __future__ import annotations

from unisono.frameworks.protocol import Array
from unisono.memory.words import fence
from unisono.runtime.state.layout import MEMBERS


class Heirs:
    """Who inherits from whom; only the supervisor writes.

    An heir reads the dead member's words after it has seen its own name, and by then the supervisor knows of the death.

    Args:
        table: an entry a number.
    """

    def __init__(self, table: Array) -> None:
        self._view = memoryview(table).cast("B").cast("q")  # type: ignore[arg-type]

    def of(self, member: int) -> int | None:
        """The heir of a dead member; None of a living one."""
        heir = self._view[member % MEMBERS]
        fence()
        return heir - 1 if heir else None

    def name(self, member: int, heir: int | None) -> None:
        """Name a dead member's heir; None for one that begins to live."""
        fence()
        self._view[member % MEMBERS] = 0 if heir is None else heir + 1
