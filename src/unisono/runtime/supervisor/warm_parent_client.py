"""The process of this host that holds the job and forks, its warm parent: started, asked, and succeeded by another."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unisono.errors import Interrupted, JobError
from unisono.errors.failure import MEMORY_WAYS_OUT, Failure
from unisono.machine.devices import out_of_memory_kills
from unisono.observe.logs import LineLog
from unisono.runtime.preparation.outline import Outline
from unisono.runtime.preparation.prepare import Described, Request
from unisono.runtime.processes.channel import Channel
from unisono.runtime.processes.deaths import Death
from unisono.runtime.processes.job_holder import Again
from unisono.runtime.processes.lifeline import Adoption, reap, status_of
from unisono.runtime.processes.source import Source
from unisono.runtime.processes.start import warm_parent
from unisono.runtime.supervisor.answers import SUCCEED, Answers, Silence, readable
from unisono.runtime.supervisor.outputs import Outputs
from unisono.runtime.supervisor.stalls import LOOK_SECONDS


class HostLost(JobError):
    """The warm parent is dead."""


class _Copy:
    """A warm parent that another one has forked.

    Args:
        process, pidfd: it.
    """

    def __init__(self, process: int, pidfd: int) -> None:
        self.pid, self._pidfd = process, pidfd
        self._status: int | None = None

    def kill(self) -> None:
        """End it."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        if self._status is None:
            readable(self._pidfd, None)
            self._status = status_of(self._pidfd)
            os.close(self._pidfd)
        return self._status


class Host:
    """A warm parent that takes one job, and whoever takes over from it.

    The parent starts at once, and what it prints goes where this process prints, until `attach`. It is asked one thing
    at a time. Every method runs in the thread that made it.

    Args:
        started: a parent that has been started already; None = one is started now.

    Attributes:
        answers: how it is waited for.
        is_lost: whether there is nobody to be asked.
    """

    def __init__(self, started: tuple[subprocess.Popen[bytes] | _Copy, Channel, int] | None = None) -> None:
        self.started = time.monotonic()
        self.answers = Answers(lambda text: None)
        self._memory_kills = out_of_memory_kills()
        self._attached: tuple[Outputs, Callable[[], LineLog]] | None = None
        self._output = -1
        self._then: Callable[[Any], None] | None = None
        self._outline: list[Any] = []
        self._awaits_outline = self.is_lost = False
        self._how = Again((), apart=False, environment={})
        self.source: Source | None = None
        self._groups: list[int] = []
        self._start(started)

    @property
    def process(self) -> int:
        """The parent's number."""
        return self._process.pid

    @property
    def is_free(self) -> bool:
        """Whether it can be asked something."""
        return self._then is None and not self.is_lost

    def imports(self, *names: str) -> None:
        """Have modules imported that copies of this one's parent then have.

        Args:
            names: of modules.
        """
        self.ask("imports", *names)

    def copied(self) -> Host:
        """A host whose parent is a copy of this one's, with the job that it holds."""
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
        copy = Host((_Copy(process, adoption.begins(process)), Channel(mine), os.dup(self._stacks)))
        copy.source, copy.answers.say, copy._how = self.source, self.answers.say, self._how
        return copy

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

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

    def attach(self, outputs: Outputs, log: Callable[[], LineLog]) -> None:
        """Take what is printed from now on.

        Args:
            outputs: where what is printed is read; its selector says when an answer has come, with this object as its
                data.
            log: makes what takes it.
        """
        self._attached = outputs, log
        with self._printing() as end:
            self.ask("print_to", files=[end])

    @contextlib.contextmanager
    def _printing(self) -> Iterator[int]:
        """Attach the parent that is there now; gives what it is to print into."""
        assert self._attached
        outputs, log = self._attached
        self._output, end = os.pipe()
        try:
            outputs.listen(self._output, log())
            outputs.selector.register(self._channel.socket, selectors.EVENT_READ, self)
            yield end
        finally:
            os.close(end)

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

    # -- asking --------------------------------------------------------------------------------------------

    def ask(self, *message: Any, files: Sequence[int] = ()) -> Any:
        """Send a request and wait for the answer.

        Raises:
            UsageError, JobError: the job could not do it.
            HostLost: there is nobody to do it.
        """
        return self._heard(self._asked(*message, files=files))

    def _asked(self, *message: Any, files: Sequence[int] = ()) -> list[Any]:
        """Send a request, once what was asked before is answered; its answer comes into the list."""
        if self._awaits_outline:
            self.outline()
        while self._then is not None:
            self._wait()
        answers: list[Any] = []
        self.post(*message, files=files, then=answers.append)
        return answers

    def _heard(self, answers: list[Any]) -> Any:
        while not answers:
            self._wait()
        (answer,) = answers
        if isinstance(answer, Failure):
            raise answer.error()
        return answer

    def _wait(self) -> None:
        end = self._channel.socket.fileno()
        if self._attached[0].wait_for(end, LOOK_SECONDS) if self._attached else readable(end, LOOK_SECONDS):
            self.hear()
        elif self.answers.interrupted():
            raise Interrupted
        else:
            self.look()

    def post(self, *message: Any, files: Sequence[int] = (), then: Callable[[Any], None]) -> None:
        """Send a request, and do not wait: `hear` takes the answer.

        Args:
            message: the request.
            files: that travel with it.
            then: called with the answer, with a `Failure`, or with the `HostLost` that has come instead.

        Raises:
            HostLost: there is nobody to answer.
            OSError: the files may not travel.
        """
        if self.is_lost:
            raise HostLost("the process that holds the job is gone.")
        with contextlib.suppress(ConnectionError):  # `hear` says it
            self._channel.send(message, files)
        self._then = then
        self.answers.begin(message[0], self._process.pid, self._stacks)

    def hear(self) -> None:
        """Take the answer that has come.

        Raises:
            HostLost: the parent has died instead.
        """
        try:
            answer, _ = self._channel.receive()
        except (EOFError, ConnectionError) as error:
            status = self._process.wait()
            death = Death("the process that holds the job", status, memory=self.lacked_memory(status))
            ways = f" {MEMORY_WAYS_OUT}" if death.memory else ""
            raise self._lost(f"{death.text}; see logs/host.log.{ways}") from error
        then, self._then = self._then, None
        assert then is not None
        self.answers.end()
        then(answer)

    def look(self) -> None:
        """Look at a parent that has not answered yet.

        Raises:
            HostLost: patience is over, and it was ended.
        """
        if self._then is None:
            return
        try:
            self.answers.look()
        except Silence as silence:
            text = f"the process that holds the job made no progress and was ended{silence}."
            raise self._lost(text) from silence

    def _lost(self, text: str) -> HostLost:
        lost = HostLost(text)
        self.end(lost)
        return lost

    def lacked_memory(self, status: int) -> bool:
        """Whether a process of this host that has just ended so was killed by the kernel because memory ran out."""
        before, self._memory_kills = self._memory_kills, out_of_memory_kills()
        return status == -signal.SIGKILL and self._memory_kills > before

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
            then: hears the digest of some samples and the job's code, a `Failure`, or a `HostLost`.

        Raises:
            HostLost: none could be started.
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

    def _start(self, started: tuple[subprocess.Popen[bytes] | _Copy, Channel, int] | None = None) -> None:
        self._process, self._channel, self._stacks = started or warm_parent()
        self._groups.append(self._process.pid)
        self.is_lost = False

    def end(self, lost: HostLost | None = None) -> None:
        """Kill the parent; who has its children for his own keeps them, and who waits for an answer hears this.

        Args:
            lost: how it was lost, or None: nobody wants it any more.
        """
        if self.is_lost:
            return
        self.is_lost = True
        if self._attached and self._output >= 0:
            outputs, _ = self._attached
            outputs.selector.unregister(self._channel.socket)
            outputs.close(self._output)
            os.close(self._output)
            self._output = -1
        self._channel.close()
        self._process.kill()
        self._process.wait()
        os.close(self._stacks)
        then, self._then = self._then, None
        if then is not None:
            then(lost or HostLost("the process that holds the job is not needed any more."))

    def close(self) -> None:
        """Kill it, once all of its children are buried; nothing is left."""
        self.end()
        for group in self._groups:
            reap(group)
