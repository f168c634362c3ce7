"""Mistakes that somebody could make in earnest; each must be noticed by the tests that are named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """A mistake in one place or several.

    Attributes:
        name: what it is about.
        edits: (module, text that it holds exactly once, text instead).
        tests: the tests that notice, as pytest takes them.
    """

    name: str
    edits: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]


PLAUSIBLE: tuple[Mistake, ...] = ()
