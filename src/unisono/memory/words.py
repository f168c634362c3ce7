"""Monotone 8-byte words in shared memory: one writer each, any number of waiters.

A word is published after the data it speaks of and read before them. On x86-64 an aligned 8-byte store and load
already are a release and an acquire; elsewhere a `fence` orders them. A waiter looks for a
short while, because a partner on another core is usually about to finish, and then sleeps on a futex, because on
an oversubscribed core the partner needs this very core.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading
import time
from collections.abc import Callable

from unisono.memory.segment import Segment

_SYSCALL_FUTEX = {"x86_64": 202, "aarch64": 98}
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_EVERYBODY = 2**31 - 1
_LIBC = ctypes.CDLL(None)
WORDS_PER_LINE = 8  # one word per 64-byte cache line: no false sharing


_KEEPS_ORDER = platform.machine() == "x86_64"


def fence() -> None:
    """Every process sees what this one has read and written before as done before what comes after.

    x86-64 keeps loads in order, and stores. Elsewhere a lock is taken and given back twice: nothing moves down over the
    first release nor up over the second acquire, and these two stay in order.
    """
    if _KEEPS_ORDER:
        return
    lock = threading.Lock()
    for _ in range(2):
        lock.acquire()
        lock.release()


class Words:
    """The words of one area (shape (n, 8), int64; the first of each line is the word).

    Args:
        segment: the mapped segment.
        name: the area's name.
        spin_seconds: how long a waiter looks before it sleeps; 0 when workers outnumber cores.
    """

    def __init__(self, segment: Segment, name: str, spin_seconds: float = 0.0) -> None:
        self._view = memoryview(segment[name]).cast("B").cast("q")  # type: ignore[arg-type]
        self._address = segment.address_of(name)
        self._spin_seconds = spin_seconds
        self._futex = _SYSCALL_FUTEX[platform.machine()]

    def get(self, index: int) -> int:
        """The word's value; everything written before it was published is visible afterwards."""
        value = self._view[index * WORDS_PER_LINE]
        if not _KEEPS_ORDER:
            fence()
        return value

    def publish(self, index: int, value: int) -> None:
        """Store the word after everything written so far, and wake who waits for it."""
        self.put(index, value)
        self._call(index, _FUTEX_WAKE, _EVERYBODY, None)

    def put(self, index: int, value: int) -> None:
        """Store the word after everything written so far; nobody waits for it."""
        if not _KEEPS_ORDER:
            fence()
        self._view[index * WORDS_PER_LINE] = value

    def wake(self, index: int) -> None:
        """Wake who waits for the word, though it has not changed."""
        self._call(index, _FUTEX_WAKE, _EVERYBODY, None)

    def wait(
        self, index: int, value: int, give_up: Callable[[], bool] | None = None, look_seconds: float = 0.1
    ) -> bool:
        """Return once the word has reached `value`.

        Args:
            index: which word.
            value: the least value to wait for.
            give_up: looked at now and then while waiting; True ends the wait.
            look_seconds: how often at least.

        Returns:
            Whether the word has reached the value.
        """
        if self.get(index) >= value:
            return True
        deadline = time.perf_counter() + self._spin_seconds
        while time.perf_counter() < deadline:
            if self.get(index) >= value:
                return True
            os.sched_yield()
        timeout = struct.pack("qq", *divmod(int(look_seconds * 1e9), 10**9))
        while (seen := self.get(index)) < value:
            if give_up and give_up():
                return False
            self._call(index, _FUTEX_WAIT, seen & 0xFFFFFFFF, timeout)
        return True

    def _call(self, index: int, operation: int, value: int, timeout: bytes | None) -> None:
        address = self._address + index * WORDS_PER_LINE * 8  # the low half: little-endian
        _LIBC.syscall(
            ctypes.c_long(self._futex), ctypes.c_void_p(address), ctypes.c_int(operation), ctypes.c_uint32(value),
            timeout, None, ctypes.c_int(0),
        )  # fmt: skip
