"""The process of this host that holds the job and forks, its warm parent: started, asked, and succeeded by another."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unisono.runtime.preparation.outline import Outline
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.processes.channel import Channel
from unisono.runtime.processes.job_holder import Again
from unisono.runtime.processes.lifeline import Adoption
from unisono.runtime.processes.source import Source
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.answers import SUCCEED
from unisono.runtime.supervisor.parent_link import Copy, ParentLink, Started


class WarmParent(ParentLink):
    """A warm parent that takes one job."""

    def __init__(self, started: Started | None = None) -> None:
        super().__init__(started)
        self._outline: list[Any] = []
        self._awaits_outline = False
        self._how = Again((), apart=False, environment={})
        self.source: Source | None = None

    def imports(self, *names: str) -> None:
        """Have modules imported that copies of this one then have.

        Args:
            names: of modules.
        """
        self.ask("imports", *names)

    def copied(self) -> WarmParent:
        """A copy of this one, with the job that it holds."""
        mine, theirs = socket.socketpair()
        adoption = Adoption()
        try:
            process = self.ask("copy", files=[theirs.fileno(), adoption.start])
        except BaseException:
            adoption.fails()
            raise
        finally:
            theirs.close()
            os.close(adoption.start)
        copy = WarmParent((Copy(process, adoption.begins(process)), Channel(mine), os.dup(self._stacks)))
        copy.source, copy.answers.say, copy._how = self.source, self.answers.say, self._how
        return copy

    # -- setting up ----------------------------------------------------------------------------------------

    def begin(self, source: Source) -> None:
        """Have the parent take a job, and do not wait for it.

        Args:
            source: where it comes from.
        """
        self.source = source
        self._take(Again(source.imports, apart=False, environment={}))

    def _take(self, how: Again) -> None:
        self._how, self._outline, self._awaits_outline = how, [], True
        assert self.source
        self.post("take", *self._told, files=self.source.files, then=self._outline.append)

    @property
    def _told(self) -> tuple[Any, ...]:
        """What a parent is told that is to take the job."""
        return str(Path.cwd()), list(sys.path), self.source, self._how

    def outline(self) -> Outline | None:
        """The job that `begin` was told of, once it is held; None where who pickled it knows it.

        Raises:
            UsageError, JobError: the job could not be had.
        """
        self._awaits_outline = False
        answer = self._heard(self._outline)
        if isinstance(answer, Again):
            self._again(answer)
            return self.outline()
        outline: Outline | None = answer
        return outline

    def _again(self, wanted: Again) -> None:
        self.end()
        self._start()
        if self._attached:
            self.attach(*self._attached)
        self._take(wanted)

    def apply(self, function: Callable[..., Any], threads: int, *arguments: Any) -> Any:
        """What a function returns, called in a child of the parent.

        Args:
            function: (job, *arguments) → anything that can be pickled; found by its name.
            threads: threads to compute with.
            arguments: more.

        Raises:
            UsageError, JobError: it failed.
        """
        return self.ask("apply", function, threads, *arguments)

    def prepare(self, request: Request, meanwhile: Callable[[], Any] = lambda: None) -> Described:
        """Have the job made ready.

        Args:
            request: what of it.
            meanwhile: called while that is done.

        Raises:
            UsageError: it breaks a rule.
        """
        answers = self._asked("prepare", request)
        meanwhile()
        answer = self._heard(answers)
        if isinstance(answer, Again):
            self._again(answer)
            answer = self.ask("prepare", request)
        described: Described = answer
        return described

    def share(self, described: Described, segment: int, event: int) -> Mapping[str, str]:
        """Have the first values written to the shared memory, and children forked from then on.

        Returns:
            What other hosts compare (see `probed`).

        Args:
            described: what `prepare` gave.
            segment: the shared memory's file.
            event: the file by which children wake the supervisor.
        """
        probe: Mapping[str, str] = self.ask("write", True, files=[segment])
        self.ask("attend", described, files=[segment, event])
        return probe

    def _asked(self, *message: Any, files: Sequence[int] = ()) -> list[Any]:
        if self._awaits_outline:
            self.outline()
        return super()._asked(*message, files=files)

    # -- one after another ---------------------------------------------------------------------------------

    def succeed(
        self, request: Request, described: Described, round: int, files: tuple[int, int], then: Callable[[Any], None]
    ) -> None:  # fmt: skip
        """Have a fresh parent take over from one that was lost, and do not wait for it.

        Args:
            request: what of the job.
            described: what the first parent made of that.
            round: see `catch_up` of the parent.
            files: the shared memory's file, and the one by which children wake the supervisor.
            then: hears the digest of some samples and the job's code, a `Failure`, or a `WarmParentLost`.

        Raises:
            WarmParentLost: none could be started.
        """

        def heard(answer: Any) -> None:
            if not isinstance(answer, Again):
                then(answer)
                return
            self._how = answer
            self.end()
            self.succeed(request, described, round, files, then)

        assert self.source
        try:
            self._start()
            with self._printing() as end:
                message = (SUCCEED, self._told, request, described, round)
                self.post(*message, files=[end, *files, *self.source.files], then=heard)
        except OSError as error:
            raise self._lost(f"another process to hold the job could not be started ({error.strerror}).") from error
