"""Processes of every role are killed, or stopped, at random instants."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil

from jobs import FOR_EVER
from reliability.place import HANG_SECONDS, JOB, Place
from waiting import until

ROLES = (
    "worker", "worker", "loader", "loader", "warm parent", "warm parent twice", "worker and warm parent", "all workers",
    "all children", "everything",
)  # fmt: skip


def kills(draw: Random, place: Place) -> None:
    """Workers, loaders and warm parents: the run goes on; same parameters and records."""
    victims = [draw.choice(ROLES) for _ in range(draw.randint(1, 5))]
    number = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP))
    place.tries(f"{number.name} to {', '.join(victims)}")
    process = _started(place, draw, "--out", place.out)
    for victim in victims:
        if not _goes_on(place, process, draw.choice((0, 1, 2, 5))):
            break
        _strike(process.pid, victim, number, draw)
    _goes_on(place, process, 3)
    if process.poll() is None:
        process.terminate()
    done = place.ended(process)
    if place.check(done, 128 + signal.SIGTERM):
        manifest = place.manifest()
        place.hold_to(manifest["steps_done"], manifest["parameters_sha256"], records=True, stopped=True)


def supervisors(draw: Random, place: Place) -> None:
    """The supervisor, again and again: each time nothing is left, and the run goes on from its newest checkpoint."""
    times = draw.randint(1, 3)
    place.tries(f"the supervisor is killed {times} times")
    for time in range(times):
        process = _started(place, draw, "--resume" if time else "--out", place.out)
        _writes(place, process, draw.choice((1, 2, 5) if time == 0 else (0, 1, 2, 5)))
        process.kill()
        if not place.check(place.ended(process), -signal.SIGKILL, cut=True):
            return
    process = _started(place, draw, "--resume", place.out)
    _goes_on(place, process, 3)
    process.terminate()
    if place.check(place.ended(process), 128 + signal.SIGTERM):
        manifest = place.manifest()
        place.hold_to(manifest["steps_done"], manifest["parameters_sha256"], records=True, stopped=True)


def _started(place: Place, draw: Random, *arguments: object) -> subprocess.Popen[bytes]:
    """A run that would go on for ever."""
    return place.start(
        "train", JOB, f"steps={FOR_EVER}", "--workers", draw.choice((1, 2, 3)), "--checkpoint-every", 2, "--keep", 3,
        "--stall-seconds", 2, *arguments,
    )  # fmt: skip


def _writes(place: Place, process: subprocess.Popen[bytes], more: int) -> None:
    """Wait for more checkpoints."""
    before = set(place.checkpoints)
    with suppress(AssertionError):
        until(
            lambda: process.poll() is not None or len({*place.checkpoints} - before) >= more, "it writes", HANG_SECONDS
        )


def _goes_on(place: Place, process: subprocess.Popen[bytes], more: int) -> bool:
    """Wait for more records."""
    enough = place.records() + max(1, more)
    with suppress(AssertionError):
        until(lambda: process.poll() is not None or place.records() >= enough, "it trains", HANG_SECONDS)
    return place.records() >= enough


def _strike(supervisor: int, victim: str, number: int, draw: Random) -> None:
    """Send a signal to processes of a role."""
    below = _children(psutil.Process(supervisor))
    named = {role: [child for child in below if _name(child) == f"unisono-{role}"] for role in ("worker", "loader")}
    children = [*named["worker"], *named["loader"]]
    parents = [child for child in below if _leads(child)]
    if victim.startswith("warm parent"):
        _send(parents, number)
        if victim.endswith("twice"):
            others = lambda: [p for p in _children(psutil.Process(supervisor)) if p not in below and _leads(p)]  # noqa: E731
            with suppress(AssertionError, psutil.Error):
                until(others, "another takes over", HANG_SECONDS)
                _send(others(), number)
    elif victim in named or victim.startswith("worker"):
        worker = named[victim.split()[0]]
        _send([*draw.sample(worker, min(1, len(worker))), *(parents if victim not in named else [])], number)
    else:
        victims = {"all workers": named["worker"], "all children": children, "everything": [*parents, *children]}
        _send(victims[victim], number)


def _send(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return list(process.children())
    return []


def _leads(process: psutil.Process) -> bool:
    """Whether a process leads a group, as those do that hold jobs."""
    with suppress(OSError):
        return os.getpgid(process.pid) == process.pid
    return False


def _name(process: psutil.Process) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process.pid}/comm").read_text().strip()
    return ""
