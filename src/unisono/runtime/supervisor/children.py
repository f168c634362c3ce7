"""The loaders, workers and profilers of a host: forked one after another, as long as there is somebody to fork them."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from unisono.errors import JobError
from unisono.errors.failure import Failure, described_error
from unisono.machine.gpu_shares import sight
from unisono.runtime.processes.child import Birth, Child
from unisono.runtime.rules.crew import STRIKES
from unisono.runtime.supervisor.answers import readable
from unisono.runtime.supervisor.site import Site

RETRY_SECONDS = 1.0
"""Between two tries to start a process that could not be started."""


class NotForked(JobError):
    """No process can be started, however often it is tried: the machine, or this process, is at a limit."""


@dataclass(frozen=True, eq=False)
class _Wanted:
    role: str
    number: int


class Children:
    """Those that live, and those that are wanted.

    Args:
        site: this host.
        begun: called with each that has begun.

    Attributes:
        living: those that were not buried yet.
    """

    def __init__(self, site: Site, begun: Callable[[Child], None]) -> None:
        self._host, self._outputs, self._listener, self._begun = site.host, site.outputs, site.listener, begun
        self._gpus = site.request.gpus
        self.living: list[Child] = []
        self._wanted: list[_Wanted] = []
        self._vain, self._due = 0, 0.0

    def want(self, role: str, number: int) -> None:
        """Have a process forked as soon as that can be done."""
        self._wanted.append(_Wanted(role, number))

    def awaits(self, role: str) -> bool:
        """Whether one of this role is still to be forked."""
        return any(wanted.role == role for wanted in self._wanted)

    def forgo(self, role: str) -> None:
        """Want none of this role any more."""
        self._wanted = [wanted for wanted in self._wanted if wanted.role != role]

    def go_on(self) -> None:
        """Have the next one forked, if the host is free to do it.

        Raises:
            NotForked: that was tried in vain, three times in a row.
        """
        if not self._wanted or not self._host.is_free or time.monotonic() < self._due:
            return
        try:
            self._fork(self._wanted[0])
        except OSError as error:
            self._in_vain(described_error(error))

    def _fork(self, wanted: _Wanted) -> None:
        birth, role, number, place = Birth(), wanted.role, wanted.number, self._place(wanted)
        sees = sight(self._gpus, place) if role == "worker" else {}
        then = partial(self._forked, wanted, birth, place)
        try:
            self._host.post("fork", role, number, sees, files=birth.theirs, then=then)
        except OSError:
            birth.fails()
            raise
        finally:
            birth.sent()

    def _forked(self, wanted: _Wanted, birth: Birth, place: int, answer: Any) -> None:
        if wanted not in self._wanted or not isinstance(answer, int):
            birth.fails()
            if isinstance(answer, Failure):
                self._in_vain(answer)
            return
        try:
            child = birth.succeeds(wanted.role, wanted.number, place, answer)
        except OSError as error:
            self._in_vain(described_error(error))
            return
        self._vain = 0
        self._wanted.remove(wanted)
        self.living.append(child)
        self._outputs.listen(child.output, self._listener.log(child.name))
        for file in (child.pidfd, child.report):
            self._outputs.selector.register(file, selectors.EVENT_READ, child)
        self._begun(child)

    def _place(self, wanted: _Wanted) -> int:
        if wanted.role != "worker":
            return wanted.number
        taken = {child.place for child in self.living if child.role == "worker"}
        return next(place for place in range(len(taken) + 1) if place not in taken)

    def _in_vain(self, reason: Failure) -> None:
        self._vain += 1
        self._due = time.monotonic() + RETRY_SECONDS
        if self._vain >= STRIKES:
            raise NotForked(f"a process could not be started, {STRIKES} times in a row: {reason.message}")
        self._listener.message(f"a process could not be started ({reason.message}); trying again")

    def hear(self, child: Child) -> None:
        """Take what a child says of itself; Python stacks in it go to its log."""
        stacks = child.hear()
        if stacks is None:
            self._outputs.forget(child.report)
        elif stacks:
            self._outputs.add(child.output, stacks)

    def bury(self, child: Child) -> int:
        """Take leave of one that has ended; returns its exit code."""
        self.hear(child)
        self._outputs.close(child.output)
        for file in (child.pidfd, child.report):
            self._outputs.forget(file)
        self.living.remove(child)
        return child.bury()

    def close(self) -> None:
        """End them all; nobody hears them any more."""
        for child in self.living:
            child.kill()
        for child in self.living:
            readable(child.pidfd, None)
            child.bury()
