"""Words wake who waits, whether it spins or sleeps."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from unisono.memory.segment import Segment, SegmentLayout
from unisono.memory.words import Words


def segment(count: int) -> Segment:
    layout = SegmentLayout()
    layout.add("words", "int64", (count, 8))
    return Segment.create(layout)


OTHER = """
import sys
from unisono.memory.segment import Segment, SegmentLayout
from unisono.memory.words import Words
layout = SegmentLayout()
layout.add("words", "int64", (2, 8))
words = Words(Segment(int(sys.argv[1]), layout), "words", float(sys.argv[2]))
for turn in range(1, 500):
    words.wait(0, turn)
    words.publish(1, turn)
"""


@pytest.mark.parametrize("spin_seconds", [0.0, 1e-3])
def test_two_processes_take_turns(spin_seconds: float) -> None:
    shared = segment(2)
    words = Words(shared, "words", spin_seconds)
    command = [sys.executable, "-c", OTHER, str(shared.file), str(spin_seconds)]
    with subprocess.Popen(command, pass_fds=[shared.file]) as other:
        for turn in range(1, 500):
            words.publish(0, turn)
            words.wait(1, turn, lambda: other.poll() is not None)
    assert other.returncode == 0
    assert [words.get(slot) for slot in range(2)] == [499, 499]


def test_a_waiter_may_give_up() -> None:
    def give_up() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        Words(segment(1), "words", 0.0).wait(0, 1, give_up)


class Watched(Words):
    """Words whose waiter never sleeps: what it asks the kernel for is noted, and may change a word meanwhile."""

    def __init__(self, shared: Segment, spin_seconds: float, *values: int) -> None:
        super().__init__(shared, "words", spin_seconds)
        self.calls: list[tuple[int, int, int, float | None]] = []
        self._values = iter(values)

    def _call(self, index: int, operation: int, value: int, timeout: bytes | None) -> None:
        seconds = None if timeout is None else float(np.dot(np.frombuffer(timeout, "int64"), [1, 1e-9]))
        self.calls.append((index, operation, value, seconds))
        for now in self._values:
            self.put(index, now)
            break


def test_who_sleeps_looks_again_until_the_value_is_reached() -> None:
    words = Watched(segment(2), 0.0, 1, 2, 3)
    assert words.wait(1, 3, lambda: False, 0.25)
    assert words.get(1) == 3
    assert words.calls == [(1, 0, seen, 0.25) for seen in (0, 1, 2)]  # it sleeps only while that is the value
    words.put(1, 5 << 32 | 7)
    assert words.wait(1, 5 << 32 | 7)
    assert len(words.calls) == 3, "no sleep where the value is reached"
    words._values = iter([6 << 32])
    assert words.wait(1, 6 << 32)
    assert words.calls[3] == (1, 0, 7, 0.1), "a futex is the low half"


def test_who_publishes_or_wakes_wakes_everybody() -> None:
    words = Watched(segment(2), 0.0)
    words.put(1, 1)
    assert not words.calls
    words.publish(1, 2)
    words.wake(1)
    assert words.calls == [(1, 1, 2**31 - 1, None)] * 2
    assert [words.get(0), words.get(1)] == [0, 2]


def test_who_spins_looks_until_the_value_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    words, looks = Watched(segment(2), 3600.0), iter(range(1, 9))
    monkeypatch.setattr("os.sched_yield", lambda: words.put(1, next(looks)))
    assert words.wait(1, 5)
    assert words.get(1) == 5
    assert not words.calls, "it never slept"


def test_who_gives_up_says_so() -> None:
    words = Watched(segment(1), 0.0, 1, 2, 3, 4)
    assert not words.wait(0, 9, lambda: words.get(0) == 2)
    assert words.get(0) == 2


def test_elsewhere_a_fence_is_on_the_right_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word is published after the data it speaks of, and read before them."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    words, seen = Words(segment(1), "words", 0.0), list[int]()
    words._order = lambda: seen.append(words._view[0])
    words.put(0, 7)
    assert seen == [0]
    assert words.get(0) == 7
    assert seen == [0, 7]
    assert words._futex == 98
