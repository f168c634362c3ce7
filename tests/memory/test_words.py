"""Words wake who waits, whether it spins or sleeps."""

from __future__ import annotations

import subprocess
import sys

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
