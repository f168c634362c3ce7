"""What people may give where a number, a switch or a name is asked for: one place of small pure checks.

Whatever is not absurd is allowed: the bounds are those of what holds the values, or far above what anybody can want.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from unisono.errors import UsageError
from unisono.values.text import excerpt

MOST_ROUNDS = (1 << 31) - 1
"""Steps and waves of evaluation in a run: a worker tells by one word which round and which microbatch it is at."""

MOST_SEED = (1 << 63) - 1
"""Frameworks take seeds of 64 bits with or without a sign: this is what all of them take."""

MOST_MICROBATCHES = 1 << 16
MOST_WORKERS = 1 << 12
MOST_THREADS = 1 << 10
MOST_HOSTS = 1 << 16
LEAST_PORTS = 3
"""Of a host: two listeners, and the store on host 0."""

MOST_CHARACTERS = 200
"""Of a name: records and names of files hold it."""

MOST_SECONDS = 1_000_000.0
"""Eleven days and a half of patience: the kernel's waits count milliseconds in 31 bits."""


def whole(what: str, value: Any, least: int = 1, most: int = MOST_ROUNDS) -> int:
    """A whole number; NumPy's are, True and False are not.

    Args:
        what: how the error calls it.
        value: what was given.
        least, most: its bounds.

    Raises:
        UsageError: it is something else.

    >>> whole("workers", 3, most=8)
    3
    >>> whole("workers", 2.0, most=8)
    Traceback (most recent call last):
    unisono.errors.UsageError: workers must be a whole number from 1 to 8; received 2.0.
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or not least <= number <= most:
        raise UsageError(f"{what} must be a whole number from {least} to {most}; received {excerpt(value)}.")
    return number


def workers(value: object) -> int:
    """Processes of a host that compute.

    Raises:
        UsageError: it is no such number.
    """
    return whole("workers", value, most=MOST_WORKERS)


def threads(value: object) -> int:
    """Threads of a worker.

    Raises:
        UsageError: it is no such number.
    """
    return whole("threads", value, most=MOST_THREADS)


def seconds(what: str, value: Any, least: float = 0.0) -> float:
    """A time to be patient for.

    Args:
        what: how the error calls it.
        value: what was given.
        least: the shortest; 0 itself is none.

    Raises:
        UsageError: it is something else.

    >>> seconds("host_timeout", float("nan"), least=1)
    Traceback (most recent call last):
    unisono.errors.UsageError: host_timeout must be a number of seconds from 1 to 1000000; received nan.
    """
    number = _real(value)
    if number is None or number <= 0 or not least <= number <= MOST_SECONDS:
        from_ = f"from {least:g}" if least else "above 0 and up"
        raise UsageError(
            f"{what} must be a number of seconds {from_} to {MOST_SECONDS:.0f}; received {excerpt(value)}."
        )
    return number


def limit(what: str, value: Any) -> float:
    """A number above 0, which may be infinite.

    Args:
        what: how the error calls it.
        value: what was given.

    Raises:
        UsageError: it is something else.

    >>> limit("job.clip_norm", float("inf"))
    inf
    """
    number = _real(value)
    if number is None or not number > 0:
        raise UsageError(f"{what} must be a number above 0; received {excerpt(value)}.")
    return number


def _real(value: object) -> float | None:
    """A number as Python's; None where it is none, or too long for one."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def switch(what: str, value: object) -> bool:
    """True or False, and nothing that merely counts as one of them.

    Args:
        what: how the error calls it.
        value: what was given.

    Raises:
        UsageError: it is something else.

    >>> switch("timeline", "no")
    Traceback (most recent call last):
    unisono.errors.UsageError: timeline must be True or False; received 'no'.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{what} must be True or False; received {excerpt(value)}.")
    return value


def one_of(what: str, value: object, choices: Collection[str]) -> str:
    """One of several words.

    Args:
        what: how the error calls it.
        value: what was given.
        choices: the words.

    Raises:
        UsageError: it is another one.

    >>> one_of("recompute", 3, ("none", "blocks"))
    Traceback (most recent call last):
    unisono.errors.UsageError: recompute must be 'none' or 'blocks'; received 3.
    """
    if not isinstance(value, str) or value not in choices:
        raise UsageError(f"{what} must be {' or '.join(map(repr, choices))}; received {excerpt(value)}.")
    return value


def name(what: str, value: object) -> str:
    """A name that records and files may have.

    Args:
        what: how the error calls it.
        value: what was given.

    Raises:
        UsageError: it is none.

    >>> name("a metric's name", "")
    Traceback (most recent call last):
    unisono.errors.UsageError: a metric's name must be text of 1 to 200 characters that can be printed; received ''.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MOST_CHARACTERS or not value.isprintable():
        raise UsageError(
            f"{what} must be text of 1 to {MOST_CHARACTERS} characters that can be printed; received {excerpt(value)}."
        )
    return value


def folder(what: str, value: object) -> Path:
    """A folder's path.

    Args:
        what: how the error calls it.
        value: what was given.

    Raises:
        UsageError: it is none.

    >>> folder("out", "")
    Traceback (most recent call last):
    unisono.errors.UsageError: out must name a folder; received ''. Write . for this one.
    """
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise UsageError(f"{what} must name a folder; received {excerpt(value)}. Write . for this one.")
    return Path(path)


def ports(what: str, value: object) -> range:
    """Ports between hosts, as people write them.

    Raises:
        UsageError: they are none, or too few.

    >>> ports("ports", "29500-29599")
    range(29500, 29600)
    """
    if isinstance(value, range):
        return value
    low, _, high = value.partition("-") if isinstance(value, str) else ("", "", "")
    first, last = number_in(low.strip()), number_in(high.strip())
    if first is None or last is None or first < 1024 or last > 65535 or last - first + 1 < LEAST_PORTS:
        raise UsageError(
            f"{what} between hosts are a range LOW-HIGH of at least {LEAST_PORTS} from 1024 to 65535, as 40000-40999; "
            f"received {excerpt(value)}."
        )
    return range(first, last + 1)


def number_in(text: str) -> int | None:
    """The whole number that a text is, if it is one of a length that numbers have.

    >>> number_in("12"), number_in("-3"), number_in("²"), number_in("9" * 5000)
    (12, -3, None, None)
    """
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdecimal() and len(digits) <= 30 else None
