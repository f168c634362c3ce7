"""What the examples share: data sets downloaded once and checked, and tables of labelled texts read with care."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unisono import UsageError

SECONDS = 60
"""How long a server may be silent."""


def folder(name: str, files: Mapping[str, tuple[str, str]]) -> Path:
    """Where a data set's files are; those that are missing are downloaded.

    Args:
        name: of the data set: its folder under $UNISONO_DATA, or under ~/.cache/unisono.
        files: file name → (address, SHA-256); a file that is there, as it is or as .gz, is taken as it is.

    Raises:
        UsageError: a file is not there, cannot be had, or has another checksum.
    """
    cache = Path(os.environ.get("UNISONO_DATA") or Path.home() / ".cache" / "unisono")
    place = cache / name
    for file, (address, digest) in files.items():
        if _found(place / file):
            continue
        place.mkdir(parents=True, exist_ok=True)
        _download(address, digest, place / file, f"Put {', '.join(files)} into {place}, or write data=FOLDER.")
    return place


def _download(address: str, digest: str, path: Path, way_out: str) -> None:
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            content = answer.read()
    except OSError as error:
        raise UsageError(f"{path.name} could not be downloaded from {address} ({error}). {way_out}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise UsageError(f"{address} must have the SHA-256 {digest}; received {found}. {way_out}")
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)


def _found(path: Path) -> Path | None:
    return next((place for place in (path, path.with_name(f"{path.name}.gz")) if place.is_file()), None)


def read_text(path: Path) -> str:
    """A UTF-8 file, as it is or as .gz.

    Raises:
        UsageError: it is not there, or not UTF-8.
    """
    place = _found(path)
    if place is None:
        raise UsageError(f"a data set needs {path.name}; {path.parent} has none.")
    content = gzip.decompress(place.read_bytes()) if place.suffix == ".gz" else place.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{place} must be UTF-8; line {line} is not ({error.reason}).") from error


@dataclass(frozen=True)
class Row:
    """A labelled text and its line in its file."""

    text: str
    label: str
    line: int


def rows(path: Path) -> list[Row]:
    """The rows of a table: .tsv, .csv or .jsonl.

    A first line (or JSON keys) with "label" names the columns: the text is in the other one. Without it the last
    column is the label.

    Raises:
        UsageError: a line has no text or no label; file and line are named.
    """
    text, found = read_text(path), []
    for line, fields in _json_lines(path, text) if path.suffix == ".jsonl" else _table_lines(path, text):
        if len(fields) != 2 or not all(field.strip() for field in fields):
            raise UsageError(f"a row holds a text and a label; {path}, line {line}, has {fields!r}. Mend or remove it.")
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


def padded(samples: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Texts as numbers, filled up to the longest, and their classes."""
    numbers = nn.utils.rnn.pad_sequence([numbers for numbers, _ in samples], batch_first=True)
    return numbers, torch.tensor([target for _, target in samples])


def answer(
    vocabulary: Vocabulary, split: Callable[[str], Sequence[str]], names: Sequence[str], model: nn.Module, text: str
) -> str:
    """A text's label, and how sure the model is of it.

    Raises:
        UsageError: there is nothing in the text.
    """
    if not text.strip():
        raise UsageError("a text to classify must have words; received an empty one.")
    chances = model(torch.tensor([vocabulary(split(text.strip()))])).softmax(1)[0]
    best = int(chances.argmax())
    return f"{names[best]}  {float(chances[best]):.3f}"
