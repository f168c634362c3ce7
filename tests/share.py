"""A share of the tests: `--share=3/8` runs the third of eight; all shares together are all tests.

Which share a test is in follows from its name, whatever other tests there are.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from hashlib import sha256

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--share=K/N`."""
    parser.addoption("--share", type=parsed, default=(1, 1), metavar="K/N", help="the K-th of N shares of the tests")


def parsed(text: str) -> tuple[int, int]:
    """(K, N) of "K/N", the K-th of N shares.

    >>> parsed("3/8")
    (3, 8)
    """
    share, _, shares = text.partition("/")
    if not (share.isdecimal() and shares.isdecimal() and 1 <= int(share) <= int(shares)):
        raise ArgumentTypeError(f"a share is K/N, with K from 1 to N; received {text}. Write --share=1/8, say.")
    return int(share), int(shares)


def share_of(name: str, shares: int) -> int:
    """Which of so many shares, from 1, a test is in."""
    return int.from_bytes(sha256(name.encode()).digest()) % shares + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only the share asked for runs."""
    share, shares = config.getoption("--share")
    inside: list[pytest.Item] = []
    outside: list[pytest.Item] = []
    for item in items:
        (inside if share_of(item.nodeid, shares) == share else outside).append(item)
    config.hook.pytest_deselected(items=outside)
    items[:] = inside
