"""Who takes over from a warm parent that is lost: another one, but not three times in a row in vain.

Workers and loaders go on meanwhile; whoever is to be forked waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from unisono.errors import JobError, UnisonoError
from unisono.errors.failure import Failure, described_error
from unisono.runtime.preparation.code_files import check_code
from unisono.runtime.preparation.prepare import Described
from unisono.runtime.rules.crew import STRIKES
from unisono.runtime.supervisor.children import RETRY_SECONDS
from unisono.runtime.supervisor.warm_parent_client import Host, HostLost


class Succession:
    """Looks after the warm parent of a run at work.

    Args:
        host: it.
        described: what the first one made of the job.
        succeed: has another one take over; its argument hears what comes of that (see `Host.succeed`).
        stop: hears why none takes over any more, where one could not hold the job as the first one did.
        say: hears what a person should know.
    """

    def __init__(
        self, host: Host, described: Described, succeed: Callable[[Callable[[Any], None]], None],
        stop: Callable[[Failure], None], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._host, self._described, self._succeed, self._stop, self._say = host, described, succeed, stop, say
        self._losses, self._due = 0, 0.0

    def lost(self, lost: HostLost) -> Failure | None:
        """The parent is lost; returns why none takes over any more, if it is so.

        Args:
            lost: how.
        """
        self._losses += 1
        if self.is_over:
            return Failure(f"{lost.message} That was so {STRIKES} times in a row, before another one could take over.")
        self._say(f"{lost.message} So another one takes over; workers go on.")
        return None

    def go_on(self) -> None:
        """Have another one take over, where there is none.

        Raises:
            HostLost: it could not be started.
        """
        if not self._host.is_lost or self.is_over or time.monotonic() < self._due:
            return
        try:
            self._succeed(self._stands)
        except HostLost:
            self._due = time.monotonic() + RETRY_SECONDS
            raise

    def _stands(self, answer: Any) -> None:
        try:
            self._compare(answer)
        except UnisonoError as error:
            self._losses = STRIKES
            self._host.end()
            self._stop(described_error(error))

    def _compare(self, answer: Any) -> None:
        if isinstance(answer, HostLost):  # as `lost` hears
            return
        if isinstance(answer, Failure):
            raise answer.error()
        samples, code = answer
        check_code(self._described.code, code)
        if samples != self._described.samples:
            raise JobError(
                "a job must give the same data each time it is read; read again, after the process that held it had "
                f"died, it gave others (digest of some: {self._described.samples} before, {samples} now). Seed what is "
                "random at the top of its file, or where its data are opened: np.random.default_rng(0)."
            )

    @property
    def is_over(self) -> bool:
        """Whether none takes over any more."""
        return self._losses >= STRIKES

    def begin_anew(self) -> None:
        """No loss counts any more: the parent has done what it was asked, or is to be tried again all the same."""
        self._losses = 0
