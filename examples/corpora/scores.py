"""Scores over whole texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


class Score:
    """A metric object: collects the texts of an evaluation, shows the first ones and scores all.

    Args:
        score: (texts found, texts wanted) → a number.

    >>> score = Score(lambda found, wanted: sum(map(str.__eq__, found, wanted)))
    >>> score.update(["a dog", "a cat"], (None, ["a dog", "a mouse"]))
    >>> score.compute()
    a dog  (wanted: a dog)
    a cat  (wanted: a mouse)
    1
    """

    def __init__(self, score: Callable[[list[str], list[str]], float]) -> None:
        self._score = score
        self.reset()

    def reset(self) -> None:
        """Forget all texts."""
        self._found: list[str] = []
        self._wanted: list[str] = []

    def update(self, found: Sequence[str], targets: tuple[Any, Sequence[str]]) -> None:
        """Texts found; the texts wanted are the last of the targets."""
        self._found += found
        self._wanted += targets[-1]

    def compute(self) -> float:
        """The score of all."""
        for found, wanted in zip(self._found[:2], self._wanted[:2], strict=True):
            print(f"{found}  (wanted: {wanted})")
        return self._score(self._found, self._wanted)
