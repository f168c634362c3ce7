"""Signals to the command, in any of its phases."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from random import Random

from reliability.place import HANG_SECONDS, JOB, Place
from reliability.work import PHASES
from waiting import until

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What stops a run with a checkpoint: exit status 128 + number."""

HEAVY_BYTES = 32 << 20
"""A checkpoint that is not written in a moment."""

TRAINED = ("middle", "late", "evaluation", "copy", "end")
"""Phases in which steps are done that must not be lost."""


def signals(draw: Random, place: Place) -> None:
    """A signal, or two, or SIGKILL: the documented exit status; the state is kept, and resumes to the same bits."""
    phase = draw.choice((*PHASES, "copy", "end"))
    first = draw.choice((*STOPS, *STOPS, signal.SIGKILL))
    second = draw.choice((None, None, None, *STOPS, signal.SIGKILL)) if first != signal.SIGKILL else None
    stays = phase in PHASES and draw.random() < 0.4
    heavy = 0 if phase in PHASES else HEAVY_BYTES
    sent = [number for number in (first, second) if number is not None]
    place.tries(f"{' and '.join(number.name for number in sent)} in phase {phase}{', which goes on' if stays else ''}")
    process = place.start(
        "train", JOB, f"heavy={heavy}", "--workers", draw.choice((1, 2, 3)), "--checkpoint-every", 4, "--out",
        place.out, variables={"MEET": phase},
    )  # fmt: skip
    met = place.met(process) if phase in PHASES else _written(place, phase, process.poll)
    for number in sent:
        if process.poll() is None:
            os.kill(process.pid, number)
    if not stays:
        place.go()
    done = place.ended(process)
    statuses = {-number if number == signal.SIGKILL else 128 + number for number in sent}
    if not met or phase == "end":
        statuses.add(0)
    cut = second is not None or first == signal.SIGKILL
    place.check(done, *statuses, cut=cut)
    if done.status != -signal.SIGKILL and place.manifest().get("exit") == "running":
        place.wrong.append("run.json says that it is running")
    place.resumes(must=phase in TRAINED and not cut, heavy=heavy)


def _written(place: Place, phase: str, poll: object) -> bool:
    """Wait until a checkpoint is being written, or the last one is written; not if the command ends before."""
    assert callable(poll)
    pattern = "checkpoints/.step-*" if phase == "copy" else "checkpoints/step-00000012"
    there = lambda: place.out.is_dir() and any(place.out.glob(pattern))  # noqa: E731
    with suppress(AssertionError):
        until(lambda: there() or poll() is not None, "it is written", HANG_SECONDS)
    return poll() is None
