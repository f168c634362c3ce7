"""Workers and loaders that hang are told apart from those that wait, and ended with their Python stack on record."""

from __future__ import annotations

from collections.abc import Iterable

from unisono.errors.failure import STACK_SIGNAL
from unisono.runtime.processes.child import Child
from unisono.runtime.processes.stacks import STACK_SECONDS
from unisono.runtime.rules.plan import Plan
from unisono.runtime.rules.stalls import STOPPED, Patience, Stalls
from unisono.runtime.supervisor.delays import Delays
from unisono.runtime.supervisor.running import Running, Standing
from unisono.runtime.supervisor.site import Site


class Hangs:
    """Looks at the processes of this host every `LOOK_SECONDS` of `delays`.

    Args:
        run: the running job.
        site: this host.
    """

    def __init__(self, run: Running, site: Site) -> None:
        self._run, self._clipped, self._say = run, site.job.waits_for_norms, site.listener.message
        self._stalls, self._delays = Stalls(site.request.stall_seconds), Delays()
        self._dumping: dict[int, Patience] = {}

    def due(self) -> float:
        """See `Delays.due`."""
        return self._delays.due()

    def end_workers(self, plan: Plan, elapsed: float) -> None:
        """Look at every worker.

        Args:
            plan: the plan in force.
            elapsed: seconds since the last look.
        """
        standings = self._run.standings(plan, self._clipped)
        for member, child in list(self._run.members.items()):
            self._look(child, standings.get(member, Standing("")), elapsed)

    def end_loaders(self, plan: Plan, children: Iterable[Child], elapsed: float) -> None:
        """Look at every loader among these processes."""
        awaited = self._run.awaited_loaders(plan)
        for child in children:
            if child.role == "loader":
                self._look(child, self._run.loader(child.number, awaited), elapsed)

    def _look(self, child: Child, standing: Standing, elapsed: float) -> None:
        """Ask one that hangs for its stack; it is killed once it has had the time to give it."""

        def held_up() -> float:
            return self._delays.of(child.process, elapsed)

        who, patience = (child.role, child.number), self._dumping.get(child.process)
        if patience is not None:
            if patience.spend(elapsed, held_up()):
                child.kill()
        elif not standing.kind:
            self._stalls.forget(who)
        else:
            if self._delays.stopped(child.process):
                standing = Standing(STOPPED, standing.slots)
            if self._stalls.look(who, *standing, elapsed, held_up):
                self._end(child)

    def _end(self, child: Child) -> None:
        if self._delays.stopped(child.process):  # it can give no stack, and what it works on is not to blame
            self._say(f"{child.name} makes no progress: it was stopped from outside (SIGSTOP), and is replaced.")
            child.kill()
            return
        self._say(f"{child.name} makes no progress; its Python stack goes to logs/.")
        child.kill(STACK_SIGNAL)
        self._dumping[child.process] = Patience(STACK_SECONDS)

    def hung(self, child: Child) -> bool:
        """Whether a process is ended because it hangs."""
        return child.process in self._dumping

    def forget(self, child: Child) -> None:
        """It has ended."""
        self._stalls.forget((child.role, child.number))
        self._delays.forget(child.process)
        self._dumping.pop(child.process, None)


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
