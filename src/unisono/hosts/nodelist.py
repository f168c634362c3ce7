"""Slurm's short form of many host names: `node[01-03,7],login` and the like."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, islice, product

from unisono.errors import UsageError

MOST = 1 << 16
"""More names than any cluster has hosts: a mistyped range must not fill the memory."""


def expand(text: str) -> list[str]:
    """All names, in order.

    Args:
        text: with commas between, ranges in brackets; numbers keep their leading zeros.

    Raises:
        UsageError: it is no such list.

    >>> expand("node[01-03,7],login")
    ['node01', 'node02', 'node03', 'node7', 'login']
    >>> expand("r[1-2]n[8-9]")
    ['r1n8', 'r1n9', 'r2n8', 'r2n9']
    """
    names = list(islice(chain.from_iterable(_names(part, text) for part in _parts(text)), MOST + 1))
    if not all(names) or len(names) > MOST:
        raise _unreadable(text)
    return names


def _parts(text: str) -> list[str]:
    """Cut at the commas outside of brackets."""
    parts = re.split(r",(?![^\[]*\])", text)
    if not all(re.fullmatch(r"(?:[^\[\],\s]|\[[^\[\]\s]+\])+", part) for part in parts):
        raise _unreadable(text)
    return parts


def _names(part: str, text: str) -> Iterator[str]:
    pieces = re.split(r"\[(.*?)\]", part)  # every other one was in brackets
    return map("".join, product(*([*_numbers(piece, text)] if at % 2 else [piece] for at, piece in enumerate(pieces))))


def _numbers(inside: str, text: str) -> Iterator[str]:
    for piece in inside.split(","):
        found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", piece)
        if found is None:
            raise _unreadable(text)
        first, last = found[1], found[2] or found[1]
        if not 0 <= int(last) - int(first) < MOST:
            raise _unreadable(text)
        for number in range(int(first), int(last) + 1):
            yield f"{number:0{len(first)}d}"


def _unreadable(text: str) -> UsageError:
    return UsageError(
        f"a list of hosts looks like node[01-03,7],login; received {text!r}. Set MASTER_ADDR to the first host's name."
    )
