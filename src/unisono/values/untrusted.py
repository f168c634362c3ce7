"""What others have written, on disk or from the network, is checked here before anything believes it.

Only regular files are read, and opening one waits for nobody; JSON is UTF-8, of a bounded size and depth, and of the
kinds that its reader names.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from unisono.errors import UnisonoError
from unisono.values.text import LONGEST_EXCERPT, excerpt, printable

MOST_BYTES = 1 << 28
"""Of a JSON document: the names of some hundred thousand tensors are a few MiB."""

_MOST_BYTES_OF_LINES = 1 << 34

DEEPEST = 64
"""Lists and objects of a JSON text within each other."""

_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "an object",
          list: "a list"}  # fmt: skip


class Malformed(UnisonoError, ValueError):
    """What was read is not what it must be; the text says of what, and can be shown."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


# -- files -------------------------------------------------------------------------------------------------


def opened(path: Path) -> BinaryIO:
    """A regular file, to be read.

    Args:
        path: a link leads to what it names. A pipe is not waited for, as `open` would.

    Raises:
        Malformed: it is missing, something else, or cannot be read.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Malformed(f"{path}: missing{' (a link that leads nowhere)' if path.is_symlink() else ''}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero character in its name
        raise Malformed(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    kind = stat.S_IFMT(os.fstat(number).st_mode)
    if kind != stat.S_IFREG:
        os.close(number)
        raise Malformed(f"{path}: {_KINDS.get(kind, 'something else')}, where a file is wanted")
    return os.fdopen(number, "rb")


def content(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of a regular file.

    Args:
        path: it.
        most: bytes that are read at most.

    Raises:
        Malformed: see `opened`; it is larger, or cannot be read to its end.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise Malformed(f"{path}: {size:,} bytes, where at most {most:,} are wanted")
        try:
            return file.read(size)
        except OSError as error:
            raise Malformed(f"{path}: cannot be read ({error.strerror})") from error


def lines(path: Path, longest: int = 1 << 24) -> Iterator[bytes]:
    """The lines of a regular file, one after another.

    Args:
        path: it.
        longest: bytes; a longer line is no line of ours, and comes in pieces.

    Raises:
        Malformed: see `content`.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > _MOST_BYTES_OF_LINES:
            raise Malformed(f"{path}: more than {_MOST_BYTES_OF_LINES:,} bytes")
        try:
            while line := file.readline(longest):
                yield line
        except OSError as error:
            raise Malformed(f"{path}: cannot be read ({error.strerror})") from error


def document(path: Path, kind: Any = dict) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        path: it.
        kind: see `check`.

    Raises:
        Malformed: see `content`, `parsed` and `check`.
    """
    data = content(path)
    try:
        return dict(check(parsed(data), kind))
    except Malformed as error:
        raise Malformed(f"{path}: {error}") from error


# -- JSON --------------------------------------------------------------------------------------------------


def parsed(data: bytes | str, deepest: int = DEEPEST) -> Any:
    """What a JSON text holds.

    Args:
        data: it.
        deepest: lists and objects that may be within each other.

    Raises:
        Malformed: it is not UTF-8, not JSON, or nested more deeply.

    >>> parsed(b'{"a": [1, null]}')
    {'a': [1, None]}
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text)
    except RecursionError as error:
        raise Malformed(f"lists and objects nested more than {deepest} deep") from error
    except ValueError as error:
        raise Malformed(f"not JSON ({error})") from error
    if text.count("[") + text.count("{") > deepest and _is_deeper(value, deepest):
        raise Malformed(f"lists and objects nested more than {deepest} deep")
    return value


def _is_deeper(value: Any, deepest: int) -> bool:
    level = [value]
    for _ in range(deepest):
        within = (item for each in level for item in (each.values() if isinstance(each, dict) else each))
        level = [item for item in within if isinstance(item, list | dict)]
        if not level:
            return False
    return True


@dataclass(frozen=True)
class Maybe:
    """A kind that may be missing, or null."""

    kind: Any


def check(value: Any, kind: Any, where: str = "") -> Any:
    """A value of JSON that is of a kind; returns it.

    Args:
        value: it.
        kind: `int` (of 64 bits), `float` (whole or not), `str`, `bool`, `list`, `dict` or `object` (anything);
            [kind] is a list of such; {"name": kind} an object with at least these fields; {str: kind} one whose fields
            are all so.
        where: what a person calls it.

    Raises:
        Malformed: it is of another kind.

    >>> check({"step": 3, "best": None}, {"step": int, "best": Maybe({"value": float})})
    {'step': 3, 'best': None}
    >>> check({"step": "3"}, {"step": int})
    Traceback (most recent call last):
    unisono.values.untrusted.Malformed: 'step' must be a whole number; received '3'
    """
    if isinstance(kind, Maybe):
        return value if value is None else check(value, kind.kind, where)
    if isinstance(kind, list):
        for item in check(value, list, where):
            check(item, kind[0], f"{where}[]")
    elif isinstance(kind, dict):
        check(value, dict, where)
        pairs = [(name, kind[str]) for name in value] if str in kind else kind.items()
        for name, wanted in pairs:
            check(value.get(name), wanted, f"{where}.{name}" if where else str(name))
    elif not _is(value, kind):
        named = f"{where[:LONGEST_EXCERPT]!r}" if where else "it"
        raise Malformed(f"{named} must be {_NAMES[kind]}; received {excerpt(value)}")
    return value


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, float) or _is(value, int)
    if kind is int:
        return type(value) is int and -(2**63) <= value < 2**63
    return kind is object or type(value) is kind
