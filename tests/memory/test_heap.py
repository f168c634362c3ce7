"""What a process frees stays its own: the next step gets it without fresh pages."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import pytest

from unisono.memory.heap import LARGE_BYTES, keep_freed, trim
from waiting import limit

PROGRAM = """
import resource, sys
import numpy as np
from unisono.memory.heap import LARGE_BYTES, keep_freed

def step():  # the last one freed lies at the heap's end
    return sum(array[0] for array in [np.ones(1 << 20) for _ in range(8)])

if sys.argv[1] == "kept":
    keep_freed(LARGE_BYTES)
for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of ten steps of 64 MiB."""
    command = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=limit()).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc lets itself be told")
def test_a_step_needs_no_fresh_pages() -> None:
    assert 10 * faults("kept") < faults("freed")  # pages may be large: only the ratio is the same everywhere


class Library:
    """A C library that notes what it is told."""

    def __init__(self, *names: str) -> None:
        self.told: list[tuple[Any, ...]] = []
        for name in names:
            setattr(self, name, lambda *values, name=name: self.told.append((name, *values)))


@pytest.mark.parametrize(("names", "told"), [
    (("malloc_trim", "mallopt"), [("malloc_trim", 0), ("mallopt", -1, 1 << 30), ("mallopt", -3, LARGE_BYTES)]),
    ((), []),
])  # fmt: skip
def test_a_library_is_told_what_it_understands(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], told: list[tuple[Any, ...]]
) -> None:
    library = Library(*names)
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    trim()
    keep_freed(LARGE_BYTES)
    assert library.told == told
    assert LARGE_BYTES == 32 << 20, "glibc's own largest"
