"""A text as numbers, one for each of its characters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corpora.files import read_text
from unisono import UsageError


def characters(path: Path, context: int) -> tuple[str, NDArray[np.int32]]:
    """The characters that occur in a text, sorted, and the number of each one of the text in them.

    Raises:
        UsageError: it is not there, not UTF-8, or too short to take windows of `context` characters from.
    """
    text = read_text(path)
    if len(text) < 20 * context:
        raise UsageError(f"a text must have 20 times the context ({context}) in characters; {path} has {len(text)}.")
    alphabet = "".join(sorted(set(text)))
    numbers = {character: number for number, character in enumerate(alphabet)}
    return alphabet, np.array([numbers[character] for character in text], np.int32)


class Windows:
    """Windows of `context` numbers, `stride` apart, each with the same moved on by one.

    >>> Windows("abcdef", 3, 2)[1]
    ('cde', 'def')
    """

    def __init__(self, numbers: Any, context: int, stride: int) -> None:
        self.numbers, self.context, self.stride = numbers, context, stride

    def __len__(self) -> int:
        return (len(self.numbers) - self.context - 1) // self.stride + 1

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        window = self.numbers[index * self.stride :][: self.context + 1]
        return window[:-1], window[1:]
