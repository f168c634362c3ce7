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
