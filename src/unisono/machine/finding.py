"""One line of `unisono doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and how to mend it.

    Attributes:
        name: what was looked at.
        state: ok; warning: a run works, but slower or less surely; wrong: it would stop a run.
        found: what is there.
        mend: what to do; empty where nothing need be done.
    """

    name: str
    state: State
    found: str
    mend: str = ""

    @staticmethod
    def of(name: str, fine: bool, found: str, mend: str, otherwise: State = "warning") -> Finding:
        """What is as it should be, or has to be mended.

        >>> Finding.of("memory", True, "8 GiB", "Buy some."), Finding.of("memory", False, "8 KiB", "Buy some.").state
        (Finding(name='memory', state='ok', found='8 GiB', mend=''), 'warning')
        """
        return Finding(name, "ok", found) if fine else Finding(name, otherwise, found, mend)
