"""Shares of the tests: each test in one, the same in each run."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentTypeError

import pytest

from command_line import ROOT
from share import parsed
from waiting import limit


def collected(*options: str) -> list[str]:
    """The names of some tests, as far as they would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", *options, "tests/partition"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=limit(), check=True)
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_every_test_is_in_one_share() -> None:
    first, second = collected("--share=1/2"), collected("--share=2/2")
    assert first
    assert second
    assert sorted(first + second) == sorted(collected())


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "a/b", ""])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="from 1 to N"):
        parsed(text)
