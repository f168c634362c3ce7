"""What is wrong in the job's own code, in any of its phases."""

from __future__ import annotations

from random import Random

from reliability.place import JOB, Place
from reliability.work import PHASES
from reliability.wrongs import ENDS, HARMLESS, OPEN, WRONGS

COMPUTES = PHASES[PHASES.index("sample") :]
"""Phases of training; before them nothing hangs by itself: a person stops it (see `signals`)."""

MOST_CHARACTERS = 100_000
"""Of a report: the terminal shows it, and `run.json` keeps it."""


def code(draw: Random, place: Place) -> None:
    """The job fails: exit status 1, with its traceback alone, and what was trained is kept."""
    what = draw.choice(sorted(WRONGS))
    phase = draw.choice(COMPUTES if what == "hang" else PHASES)
    place.tries(f"{what} in phase {phase}")
    done = place.command(
        "train", JOB, "--workers", 2, "--checkpoint-every", 4, "--out", place.out, "--stall-seconds", 1,
        variables={"FAULT": f"{phase}:{what}"},
    )  # fmt: skip
    bearable = what in OPEN or (phase == "middle" and what in ENDS)  # each time at another place
    statuses = (0,) if what in HARMLESS else (0, 1) if bearable else (1,)
    if not place.check(done, *statuses, shows_the_jobs=True):
        return
    if len(done.err) > MOST_CHARACTERS:
        place.wrong.append(f"a report of {len(done.err)} characters")
    if done.status == 0:
        place.hold_to(12, done.parameters, records=True)
    elif place.manifest().get("exit") not in ("failed", "interrupted", None):
        place.wrong.append(f"run.json says {place.manifest().get('exit')!r}")
    place.resumes(must=phase in ("middle", "late", "evaluation"))
