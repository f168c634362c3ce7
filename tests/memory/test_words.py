"""Words wake who waits, whether it spins or sleeps."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import unisono.memory.words as words_module
from unisono.memory.segment import Segment, SegmentLayout
from unisono.memory.words import Words
from waiting import limit, scaled


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
    words.wait(0, turn, look_seconds=float(sys.argv[3]))
    words.publish(1, turn)
"""


def wakened(words: Words, index: int, value: int, seconds: float) -> None:
    """Wait for a word; to find it only when one looks, and not to be woken, is to fail."""
    looks = iter((False, False))  # the wake-up of the turn before may come late, and in vain
    words.wait(index, value, lambda: next(looks), seconds)


@pytest.mark.parametrize("spin_seconds", [0.0, 1e-3])
def test_two_processes_take_turns(spin_seconds: float) -> None:
    shared = segment(2)
    words = Words(shared, "words", spin_seconds)
    seconds = scaled(5.0)
    command = [sys.executable, "-c", OTHER, str(shared.file), str(spin_seconds), str(seconds)]
    with subprocess.Popen(command, pass_fds=[shared.file]) as other:
        try:
            for turn in range(1, 500):
                words.publish(0, turn)
                wakened(words, 1, turn, seconds)
            assert other.wait(limit()) == 0
        finally:
            other.kill()
    assert [words.get(slot) for slot in range(2)] == [499, 499]


def test_a_waiter_may_give_up() -> None:
    def give_up() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        Words(segment(1), "words", 0.0).wait(0, 1, give_up)


class Kernel:
    """Notes what it is asked for; who would sleep finds the word's next value instead."""

    def __init__(self) -> None:
        self.segment = segment(2)
        self.asked: list[tuple[str, int, float | None]] = []
        self.coming: list[int] = []

    def syscall(self, number: Any, address: Any, operation: Any, value: Any, timeout: Any, *rest: Any) -> None:
        assert number.value == {"x86_64": 202, "aarch64": 98}[platform.machine()]
        assert address.value == self.segment.address_of("words") + 64, "word 1, in a cache line of its own"
        seconds = None if timeout is None else float(np.frombuffer(timeout, "int64") @ [1, 1e-9])
        self.asked.append(({0: "wait", 1: "wake"}[operation.value], value.value, seconds))
        if self.coming:
            self.segment["words"][1, 0] = self.coming.pop(0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(words_module, "_LIBC", kernel)
    return kernel


def test_who_sleeps_looks_again_until_the_value_is_reached(kernel: Kernel) -> None:
    words = Words(kernel.segment, "words", 0.0)
    kernel.coming = [1, 2, 3]
    assert words.wait(1, 3, lambda: False, 0.25)
    assert words.get(1) == 3
    assert kernel.asked == [("wait", seen, 0.25) for seen in (0, 1, 2)]  # it sleeps only while that is the value
    assert words.wait(1, 3)
    assert len(kernel.asked) == 3, "no sleep where the value is reached"
    words.put(1, 5 << 32 | 7)
    kernel.coming = [6 << 32]
    assert words.wait(1, 6 << 32)
    assert kernel.asked[3:] == [("wait", 7, 0.1)], "a futex is the low half"


def test_who_publishes_or_wakes_wakes_everybody(kernel: Kernel) -> None:
    words = Words(kernel.segment, "words", 0.0)
    words.put(1, 1)
    assert not kernel.asked
    words.publish(1, 2)
    words.wake(1)
    assert kernel.asked == [("wake", 2**31 - 1, None)] * 2
    assert kernel.segment["words"][:, 0].tolist() == [0, 2]


def test_who_spins_looks_until_the_value_is_reached(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    words, looks = Words(kernel.segment, "words", 3600.0), iter(range(1, 9))
    monkeypatch.setattr("os.sched_yield", lambda: words.put(1, next(looks)))
    assert words.wait(1, 5)
    assert words.get(1) == 5
    assert not kernel.asked, "it never slept"


def test_who_gives_up_says_so(kernel: Kernel) -> None:
    words = Words(kernel.segment, "words", 0.0)
    kernel.coming = [1, 2, 3, 4]
    assert not words.wait(1, 9, lambda: words.get(1) == 2)
    assert words.get(1) == 2


def test_elsewhere_a_fence_is_on_the_right_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word is published after the data it speaks of, and read before them."""
    fenced: list[int] = []
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(words_module, "_KEEPS_ORDER", False)
    monkeypatch.setattr(words_module, "fence", lambda: fenced.append(int(shared["words"][0, 0])))
    shared = segment(1)
    words = Words(shared, "words", 0.0)
    assert words._futex == 98
    words.put(0, 7)
    assert fenced == [0]
    assert words.get(0) == 7
    assert fenced == [0, 7]


@pytest.mark.parametrize("keeps_order", [True, False])
def test_a_fence_holds_nothing_afterwards(keeps_order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words_module, "_KEEPS_ORDER", keeps_order)
    for _ in range(2):
        words_module.fence()
