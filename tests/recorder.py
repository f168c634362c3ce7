"""What is done to a table of shared memory, step by step."""

from __future__ import annotations

import pytest


class Recorder:
    """A table of shared memory that remembers what is read and written where, and fences, in order.

    Args:
        area: the table.
        module: whose fences.
        monkeypatch: pytest's.
    """

    def __init__(self, area: memoryview, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.area = area
        self.seen: list[object] = []
        monkeypatch.setattr(f"{module}.fence", lambda: self.seen.append("fence"))

    def __setitem__(self, index: int, word: int) -> None:
        self.area[index] = word
        self.seen.append((index, word))

    def __getitem__(self, index: int) -> int:
        self.seen.append(index)
        return self.area[index]

    def tolist(self) -> list[int]:
        self.seen.append("all")
        return self.area.tolist()
