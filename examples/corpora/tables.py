"""Tables of labelled texts, and the words in them."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpora.files import read_text
from unisono import UsageError


@dataclass(frozen=True)
class Row:
    """A labelled text and its line in its file."""

    text: str
    label: str
    line: int


def rows(path: Path, holds: str = "a text and a label") -> list[Row]:
    """The rows of a table: .tsv, .csv or .jsonl; `holds` is what its lines should have.

    A first line (or JSON keys) with "label" names the columns: the text is in the other one. Without it the last
    column is the label.

    Raises:
        UsageError: a line has no text or no label; file and line are named.
    """
    text, found = read_text(path), []
    for line, fields in _json_lines(path, text) if path.suffix == ".jsonl" else _table_lines(path, text):
        if len(fields) != 2 or not all(field.strip() for field in fields):
            raise UsageError(f"a row holds {holds}; {path}, line {line}, has {fields!r}. Mend or remove it.")
        found.append(Row(fields[0].strip(), fields[1].strip(), line))
    return found


def _table_lines(path: Path, text: str) -> Iterable[tuple[int, list[str]]]:
    if path.suffix == ".csv":
        lines = list(csv.reader(io.StringIO(text)))
    else:  # quotes mean nothing in a .tsv
        lines = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    label, first = len(lines[0]) - 1, 0
    if "label" in lines[0]:
        label, first = lines[0].index("label"), 1
    for number, fields in enumerate(lines[first:], first + 1):
        yield number, [*fields[:label], *fields[label + 1 :], *fields[label : label + 1]]


def _json_lines(path: Path, text: str) -> Iterable[tuple[int, list[str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line)
            yield number, [str(record["text"]), str(record["label"])]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f'{path}, line {number}, must be {{"text": …, "label": …}}; {error!r}.') from error


def tables(place: Path) -> dict[str, list[Row]]:
    """The rows of a folder's train, dev and test tables.

    Raises:
        UsageError: one is missing or has a bad row, or a label that no training row has; file and line are named.
    """
    suffix = next((path.suffixes[0] for path in sorted(place.glob("train.*"))), ".tsv")
    paths = {name: place / f"{name}{suffix}" for name in ("train", "dev", "test")}
    found = {name: rows(path) for name, path in paths.items()}
    known = {row.label for row in found["train"]}
    for name, path in paths.items():
        for row in found[name]:
            if row.label not in known:
                raise UsageError(
                    f"labels are those of the training rows, {', '.join(sorted(known))}; {path}, line {row.line}, has "
                    f"{row.label!r}."
                )
    return found


class Vocabulary:
    """Words to numbers: 0 fills up, 1 stands for words that training did not see often enough.

    Args:
        texts: the training texts as words.
        least: how often a word must occur.

    >>> Vocabulary([["a", "b"], ["a"]], 2)(["b", "a"])
    [1, 2]
    """

    def __init__(self, texts: Iterable[Sequence[str]], least: int) -> None:
        counts = Counter(word for words in texts for word in words)
        kept = sorted(word for word, count in counts.items() if count >= least)
        self._numbers = {word: number for number, word in enumerate(kept, 2)}

    def __len__(self) -> int:
        return len(self._numbers) + 2

    def __call__(self, words: Iterable[str]) -> list[int]:
        return [self._numbers.get(word, 1) for word in words]
