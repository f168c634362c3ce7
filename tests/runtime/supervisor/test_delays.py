"""What holds a process up is not its own fault: no core, no disk, no memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unisono.runtime.supervisor.delays import CARRIED_SECONDS, Delays, Thread, threads
from waiting import until

LOOP = "while True: pass"


def test_time_in_the_queue_counts_once_whether_the_kernel_has_added_it_yet_or_not() -> None:
    looks = [Thread("R", 1.0, 2.0)]
    held_up = []
    for now in (
        Thread("R", 1.0, 2.0),  # it waits for a core
        Thread("R", 1.0, 2.0),
        Thread("S", 1.1, 2.9),  # had one after 0.9 s, and then nothing to do
        Thread("S", 1.1, 2.9),
        Thread("R", 1.4, 3.0),  # woke, waited for 0.1 s, and runs
    ):
        looks.append(now.after(looks[-1], 0.5))
        held_up.append(round(looks[-1].held_up(looks[-2], 0.5), 3))
    assert held_up == [0.5, 0.5, 0.0, 0.0, 0.0]
    assert Thread("S", 1.5, 3.4).after(looks[-1], 0.5).held_up(looks[-1], 0.5) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("now", "held_up"),
    [
        (Thread("D", 1.0, 2.0), 0.5),  # the disk
        (Thread("S", 1.0, 2.0), 0.0),  # a lock that nobody gives back
        (Thread("T", 1.0, 2.0), 0.0),  # stopped
        (Thread("R", 1.5, 2.0), 0.0),  # an endless loop
        (Thread("R", 1.2, 2.3), 0.3),  # one that shares its core
        (Thread("R", float("nan"), 0.0), 0.0),  # the kernel doesn't count
    ],
)
def test_what_counts(now: Thread, held_up: float) -> None:
    before = Thread("R", now.ran if now.ran != now.ran else 1.0, min(now.queued, 2.0))
    assert now.after(before, 0.5).held_up(before, 0.5) == pytest.approx(held_up)


@pytest.mark.parametrize("turn", [0.1, 0.2, 0.37, 0.6, 1.4])
def test_who_gets_a_core_for_an_instant_in_each_turn_is_held_up_all_the_other_time(turn: float) -> None:
    """The kernel adds a wait when it is over: many begin before a look and end after it."""

    def at(seconds: float) -> Thread:
        turns, rest = divmod(seconds, turn)
        waited = turns * (turn - 0.003) + (turn - 0.003 if rest > turn - 0.003 else 0.0)
        return Thread("R", turns * 0.003 + max(0.0, rest - turn + 0.003), waited)

    before, unexplained = at(0.0), 0.0
    for look in range(1, 1001):
        now = at(0.25 * look).after(before, 0.25)
        unexplained += 0.25 - now.held_up(before, 0.25)
        before = now.counted(before, 0.25)
    assert unexplained < at(250.0).ran + 0.5


def test_what_was_waited_long_ago_explains_no_hang() -> None:
    before = Thread("R", 1.0, 0.0)
    first = Thread("R", 2.0, 100.0).after(before, 0.5)
    before, held_up = first.counted(before, 0.5), first.held_up(before, 0.5)
    for ran in (2.5, 3.0, 3.5, 4.0):
        now = Thread("R", ran, 100.0).after(before, 0.5)
        before, held_up = now.counted(before, 0.5), held_up + now.held_up(before, 0.5)
    assert held_up == 0.5 + CARRIED_SECONDS


def only_thread(process: subprocess.Popen[bytes]) -> Thread:
    ((_, thread),) = threads(process.pid)
    return thread


def test_the_kernel_tells_who_waits_for_a_core() -> None:
    if any(math.isnan(thread.ran) for _, thread in threads(os.getpid())):
        pytest.skip("this kernel does not count how long threads wait for a core")
    core = str(min(os.sched_getaffinity(0)))
    commands = [["taskset", "-c", core, "nice", "-n", nice, sys.executable, "-c", LOOP] for nice in ("0", "19")]
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as waiting:
        assert waiting.stdin is not None
        assert waiting.stdout is not None
        waiting.stdin.write(b".")
        waiting.stdout.read(1)
        until(lambda: only_thread(waiting).state == "S", "it waits for what does not come")
        before = only_thread(waiting)
        busy, starved = (subprocess.Popen(command) for command in commands)
        try:
            until(lambda: only_thread(starved).queued > 1.0, "the one with the lesser right has waited for the core")
            assert only_thread(waiting) == before
        finally:
            for process in (busy, starved):
                process.kill()
                process.wait()
        waiting.stdin.close()


def test_a_process_that_has_ended_is_not_held_up() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert not Path(f"/proc/{process.pid}").exists()
    delays = Delays()
    assert delays.of(process.pid, 1.0) == 1.0, "nothing is known yet"
    assert delays.of(process.pid, 1.0) == 0.0
