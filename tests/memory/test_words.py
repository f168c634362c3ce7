"""Words wake who waits, whether it spins or sleeps."""

from __future__ import annotations

import os

import pytest

from unisono.memory.segment import Segment, SegmentLayout
from unisono.memory.words import Words


def segment(count: int) -> Segment:
    layout = SegmentLayout()
    layout.add("words", "int64", (count, 8))
    return Segment.create(layout)


@pytest.mark.parametrize("spin_seconds", [0.0, 1e-3])
def test_two_processes_take_turns(spin_seconds: float) -> None:
    words = Words(segment(2), "words", spin_seconds)
    child = os.fork()
    if not child:
        for turn in range(1, 500):
            words.wait(0, turn)
            words.publish(1, turn)
        os._exit(0)
    for turn in range(1, 500):
        words.publish(0, turn)
        words.wait(1, turn)
    assert os.waitpid(child, 0)[1] == 0
    assert [words.get(slot) for slot in range(2)] == [499, 499]


def test_a_waiter_may_give_up() -> None:
    def give_up() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        Words(segment(1), "words", 0.0).wait(0, 1, give_up)
