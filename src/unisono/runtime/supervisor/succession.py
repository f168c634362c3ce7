"""Who takes over from a warm parent that is lost: another one, but not three times in a row in vain.

Workers and loaders go on meanwhile; whoever is to be forked waits.
"""

from __future__ import annotations

import time
from typing import Any

from unisono.errors import JobError, UnisonoError
from unisono.errors.failure import Failure, described_error
from unisono.runtime.preparation.code_files import check_code
from unisono.runtime.rules.crew import STRIKES
from unisono.runtime.supervisor.children import RETRY_SECONDS
from unisono.runtime.supervisor.parent_link import WarmParentLost
from unisono.runtime.supervisor.running import Running
from unisono.runtime.supervisor.site import Site


class Succession:
    """Looks after the warm parent of a run at work.

    Args:
        run: the run.
        site: this host.
        event: the file by which children wake the supervisor.
    """

    def __init__(self, run: Running, site: Site, event: int) -> None:
        self._run, self._site, self._host = run, site, site.host
        self._files = run.state.segment.file, event
        self._losses, self._due = 0, 0.0

    def lost(self, lost: WarmParentLost) -> Failure | None:
        """The parent is lost; returns why none takes over any more, if it is so.

        Args:
            lost: how.
        """
        self._losses += 1
        if self.is_over:
            return Failure(f"{lost.message} That was so {STRIKES} times in a row, before another one could take over.")
        self._site.listener.message(f"{lost.message} So another one takes over; workers go on.")
        return None

    def go_on(self) -> None:
        """Have another one take over, where there is none.

        Raises:
            WarmParentLost: it could not be started.
        """
        if not self._host.is_lost or self.is_over or time.monotonic() < self._due:
            return
        try:
            run = self._run
            self._host.succeed(self._site.request, run.described, run.records.plan.round, self._files, self._stands)
        except WarmParentLost:
            self._due = time.monotonic() + RETRY_SECONDS
            raise

    def _stands(self, answer: Any) -> None:
        try:
            self._compare(answer)
        except UnisonoError as error:
            self._losses = STRIKES
            self._host.end()
            self._site.ending.stop_for(described_error(error))

    def _compare(self, answer: Any) -> None:
        if isinstance(answer, WarmParentLost):  # as `lost` hears
            return
        if isinstance(answer, Failure):
            raise answer.error()
        samples, code = answer
        described = self._run.described
        check_code(described.code, code)
        if samples != described.samples:
            raise JobError(
                "a job must give the same data each time it is read; read again, after the process that held it had "
                f"died, it gave others (digest of some: {described.samples} before, {samples} now). Seed what is "
                "random at the top of its file, or where its data are opened: np.random.default_rng(0)."
            )

    @property
    def is_over(self) -> bool:
        """Whether none takes over any more."""
        return self._losses >= STRIKES

    def begin_anew(self) -> None:
        """No loss counts any more: the parent has done what it was asked, or is to be tried again all the same."""
        self._losses = 0
