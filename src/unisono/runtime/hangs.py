"""Workers and loaders that hang are told apart from those that wait, and ended with their Python stack on record."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from unisono.runtime.failure import STACK_SIGNAL
from unisono.runtime.host import Child
from unisono.runtime.protocol import Plan
from unisono.runtime.running import Running
from unisono.runtime.stalls import Stalls

STACK_SECONDS = 0.5
"""Between asking for a stack and the kill: time to write it."""


def end_hung_workers(
    run: Running, stalls: Stalls, plan: Plan, clipped: bool, now: float, elapsed: float, message: Callable[[str], None]
) -> None:
    """Look at every worker.

    Args:
        run: the running job.
        stalls: what is known of usual paces.
        plan: the plan in force.
        clipped: whether the job clips gradients.
        now: monotonic seconds.
        elapsed: seconds since the last look.
        message: says what a person should know.
    """
    for member, child in list(run.members.items()):
        if member in run.dumping:
            if now >= run.dumping[member]:
                child.kill()
            continue
        who = (child.role, child.number)
        kind, mark = run.standing(plan, member, clipped)
        if not kind:
            stalls.forget(who)
        elif stalls.look(who, kind, mark, elapsed):
            message(f"{child.name} makes no progress; its Python stack goes to logs/.")
            child.kill(STACK_SIGNAL)
            run.dumping[member] = now + STACK_SECONDS


def end_hung_loaders(run: Running, stalls: Stalls, children: Iterable[Child], elapsed: float) -> None:
    """Look at every loader that is reading a microbatch."""
    for child in children:
        if child.role != "loader":
            continue
        word = int(run.state.segment["reading"][child.number, 0])
        if word and stalls.look((child.role, child.number), "reading", word, elapsed):
            child.kill(STACK_SIGNAL)
            child.kill()
