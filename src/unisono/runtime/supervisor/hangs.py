"""Workers and loaders that hang are told apart from those that wait, and ended with their Python stack on record."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from unisono.errors.failure import STACK_SIGNAL
from unisono.runtime.processes.child import Child
from unisono.runtime.rules.plan import Plan
from unisono.runtime.supervisor.delays import Delays, is_stopped
from unisono.runtime.supervisor.running import Running, Standing
from unisono.runtime.supervisor.stalls import BEGINNING, Patience, Stalls

LOOK_SECONDS = 0.25
"""Between two looks: each asks the kernel about every thread of those that stand still."""

STACK_SECONDS = 0.5
"""Between asking for a stack and the kill: time to write it."""


class Hangs:
    """Looks at the processes of this host every LOOK_SECONDS.

    Args:
        seconds: see `Stalls`.
    """

    def __init__(self, seconds: float | None) -> None:
        self._stalls, self._delays = Stalls(seconds), Delays()

    def end_workers(
        self, run: Running, plan: Plan, clipped: bool, elapsed: float, message: Callable[[str], None]
    ) -> None:
        """Look at every worker.

        Args:
            run: the running job.
            plan: the plan in force.
            clipped: whether the job clips gradients.
            elapsed: seconds since the last look.
            message: says what a person should know.
        """
        standings = run.standings(plan, clipped)
        for member, child in list(run.members.items()):
            if self._is_ending(run, child, elapsed):
                continue
            beginning = member in run.crew.coming
            kind, slots, mark = Standing(BEGINNING) if beginning else standings.get(member, Standing(""))
            if not kind:
                self._stalls.forget((child.role, child.number))
            elif self._hangs(child, kind, slots, mark, elapsed):
                self._end(run, child, message)

    def end_loaders(
        self, run: Running, children: Iterable[Child], elapsed: float, message: Callable[[str], None]
    ) -> None:
        """Look at every loader that is reading a microbatch."""
        for child in children:
            if child.role != "loader" or self._is_ending(run, child, elapsed):
                continue
            word = int(run.state.segment["reading"][child.number, 0])
            if word and self._hangs(child, "reading", (), word, elapsed):
                self._end(run, child, message)

    def _is_ending(self, run: Running, child: Child, elapsed: float) -> bool:
        """Whether a process has been asked for its stack; it is killed once it has had the time to give it."""
        patience = run.dumping.get(child.process)
        if patience is not None and patience.spend(elapsed, self._held_up(child, elapsed)):
            child.kill()
        return patience is not None

    def _end(self, run: Running, child: Child, message: Callable[[str], None]) -> None:
        if is_stopped(child.process):  # it can give no stack, and what it works on is not to blame
            message(f"{child.name} makes no progress: it was stopped from outside (SIGSTOP), and is replaced.")
            child.kill()
            return
        message(f"{child.name} makes no progress; its Python stack goes to logs/.")
        child.kill(STACK_SIGNAL)
        run.dumping[child.process] = Patience(STACK_SECONDS)

    def forget(self, child: Child) -> None:
        """It has ended."""
        self._stalls.forget((child.role, child.number))
        self._delays.forget(child.process)

    def _hangs(self, child: Child, kind: str, slots: tuple[int, ...], mark: object, elapsed: float) -> bool:
        who = (child.role, child.number)
        return self._stalls.look(who, kind, slots, mark, elapsed, lambda: self._held_up(child, elapsed))

    def _held_up(self, child: Child, elapsed: float) -> float:
        return self._delays.of(child.process, elapsed)


class CommonPatience:
    """Patience with workers that wait for each other: it is not used up while one of them is held up.

    Args:
        seconds: how much there is.
    """

    def __init__(self, seconds: float) -> None:
        self._patience, self._delays = Patience(seconds), Delays()

    def spend(self, children: Iterable[Child], elapsed: float) -> bool:
        """Time has passed; returns whether patience is over."""
        held_up = [self._delays.of(child.process, elapsed) for child in children]
        return self._patience.spend(elapsed, max(held_up, default=0.0))
