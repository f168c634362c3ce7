"""The supervisor's side of one host: start the warm parent, its loaders and workers; see who ended and why."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unisono.errors import JobError, UnisonoError
from unisono.machine.devices import out_of_memory_kills
from unisono.runtime.answers import Answers, Silence, readable
from unisono.runtime.channel import Channel
from unisono.runtime.child import Child
from unisono.runtime.deaths import Death
from unisono.runtime.failure import MEMORY_WAYS_OUT, Failure, described_error
from unisono.runtime.holder import Again
from unisono.runtime.outline import Outline
from unisono.runtime.prepare import Described, Request
from unisono.runtime.source import Source
from unisono.runtime.warm import warm_parent


class HostLost(JobError):
    """The warm parent is dead, and its children with it."""


class NotForked(JobError):
    """No process can be started now: the machine, or this process, is at a limit."""


class _Copy:
    """A warm parent that another one has forked.

    Args:
        process: its number.
        origin: the host whose parent has forked it.
    """

    def __init__(self, process: int, origin: Host) -> None:
        self.pid, self._origin = process, origin
        self._pidfd = os.pidfd_open(process)
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
            os.close(self._pidfd)
            try:
                self._status = int(self._origin.ask("reap", self.pid))
            except HostLost:
                self._status = -signal.SIGKILL  # it died with the process that had forked it
        return self._status


class Host:
    """The processes of this host: a warm parent that takes one job, and the children that it forks.

    The parent starts at once, and what it prints goes where this process prints, until `attach`. Every method runs in
    the thread that made it.

    Args:
        started: a parent that has been started already; None = one is started now.

    Attributes:
        answers: how it is waited for.
    """

    def __init__(self, started: tuple[subprocess.Popen[bytes] | _Copy, Channel, int] | None = None) -> None:
        self.started = time.monotonic()
        self.answers = Answers(lambda text: None)
        self._memory_kills = out_of_memory_kills()
        self.children: list[Child] = []
        self._listen: Callable[[int | None], None] | None = None
        self._wait_for: Callable[[int, float], bool] = readable
        self._output = -1
        self._awaits_outline = self._closed = False
        self._asked = ""
        self.source: Source | None = None
        self._process, self._channel, self._stacks = started or warm_parent()

    @property
    def process(self) -> int:
        """The parent's number."""
        return self._process.pid

    def imports(self, *names: str) -> None:
        """Have modules imported that copies of this one's parent then have.

        Args:
            names: of modules.
        """
        self.ask("imports", *names)

    def copied(self) -> Host:
        """A host whose parent is a copy of this one's, with the job that it holds. It is closed before this one."""
        mine, theirs = socket.socketpair()
        with theirs:
            process = _Copy(self.ask("copy", files=[theirs.fileno()]), self)
        copy = Host((process, Channel(mine), os.dup(self._stacks)))
        copy.source, copy.answers.say = self.source, self.answers.say
        return copy

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, source: Source) -> None:
        """Have the parent take a job, and do not wait for it.

        Args:
            source: where it comes from.
        """
        self.source = source
        self._take(Again(source.imports, apart=False, environment={}))

    def _take(self, how: Again) -> None:
        self._awaits_outline = True
        with contextlib.suppress(ConnectionError):  # whoever waits for the answer says it
            assert self.source
            self._asked = "take"
            message = ("take", str(Path.cwd()), list(sys.path), self.source, how)
            self._channel.send(message, self.source.files)

    def outline(self) -> Outline | None:
        """The job that `begin` was told of, once it is held; None where who pickled it knows it.

        Raises:
            UsageError, JobError: the job could not be had.
        """
        self._awaits_outline = False
        answer = self._answer()
        if isinstance(answer, Again):
            self._again(answer)
            return self.outline()
        outline: Outline | None = answer
        return outline

    def _again(self, wanted: Again) -> None:
        self._replace()
        self._take(wanted)

    def attach(self, listen: Callable[[int | None], None], wait_for: Callable[[int, float], bool]) -> None:
        """Take what is printed from now on.

        Args:
            listen: called with the pipe through which it comes, and with None before that closes.
            wait_for: (file, seconds) → whether the file can be read in time; takes what is printed meanwhile.
        """
        self._output, write_end = os.pipe()
        self._listen, self._wait_for = listen, wait_for
        listen(self._output)
        try:
            self.ask("print_to", files=[write_end])
        finally:
            os.close(write_end)

    def restart(self) -> None:
        """A fresh parent, in place of one that is gone, takes the same job."""
        self._replace()
        assert self.source
        self.begin(self.source)

    def _replace(self) -> None:
        listen, wait_for = self._listen, self._wait_for
        self._end()
        self._process, self._channel, self._stacks = warm_parent()
        if listen is not None:
            self.attach(listen, wait_for)

    def ask(self, *message: Any, files: Sequence[int] = ()) -> Any:
        """Send a request and wait for the answer.

        Raises:
            UsageError, JobError: the job could not do it.
            HostLost: there is nobody to do it.
        """
        self._say(message, files)
        return self._answer()

    def _say(self, message: Sequence[Any], files: Sequence[int] = ()) -> None:
        if self._awaits_outline:
            self.outline()
        self._asked = message[0]
        with contextlib.suppress(ConnectionError):  # whoever waits for the answer says it
            self._channel.send(message, files)

    def _answer(self) -> Any:
        end = self._channel.socket.fileno()
        try:
            self.answers.wait(
                self._asked, self._process.pid, self._stacks, lambda seconds: self._wait_for(end, seconds)
            )
            answer, _ = self._channel.receive()
        except Silence as silence:
            self._process.kill()
            raise HostLost(f"the process that holds the job made no progress and was ended{silence}.") from silence
        except (EOFError, ConnectionError) as error:
            status = self._process.wait()
            death = Death("the process that holds the job", status, memory=self.lacked_memory(status))
            ways = f" {MEMORY_WAYS_OUT}" if death.memory else ""
            raise HostLost(f"{death.text}; see logs/host.log.{ways}") from error
        if isinstance(answer, Failure):
            raise answer.error()
        return answer

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
        self._say(("prepare", request))
        meanwhile()
        answer = self._answer()
        if isinstance(answer, Again):
            self._again(answer)
            answer = self.ask("prepare", request)
        described: Described = answer
        return described

    def share(self, described: Described, segment: int, event: int, initialise: bool) -> Mapping[str, str]:
        """Have the first values written to the shared memory, and children forked from then on.

        Returns:
            What other hosts compare (see `probed`).

        Args:
            described: what `prepare` gave.
            segment: the shared memory's file.
            event: the file by which children wake the supervisor.
            initialise: whether to write; False where the memory is in use already.
        """
        probe: Mapping[str, str] = self.ask("write", initialise, files=[segment])
        self.ask("attend", described, files=[segment, event])
        return probe

    def fork(self, role: str, number: int, place: int) -> Child:
        """Start a worker, a loader or a profiler.

        Raises:
            NotForked: that could not be done now.
            HostLost: there is nobody to do it.
        """
        files: list[int] = []
        try:
            for _ in range(2):
                files += os.pipe()
            output, output_end, report, report_end = files
            for end in (output, report):
                os.set_blocking(end, False)
            child = Child(role, number, place, *self._forked(role, number, output_end, report_end), output, report)
        except HostLost:
            self._close(files)
            raise
        except (UnisonoError, OSError) as error:
            self._close(files)
            raise NotForked(described_error(error).message) from error
        self._close([output_end, report_end])
        self.children.append(child)
        return child

    def _forked(self, role: str, number: int, *ends: int) -> tuple[int, int]:
        process = int(self.ask("fork", role, number, files=ends))
        try:
            return process, os.pidfd_open(process)
        except OSError:
            os.kill(process, signal.SIGKILL)
            raise

    @staticmethod
    def _close(files: Sequence[int]) -> None:
        for file in files:
            os.close(file)

    def reap(self, child: Child) -> int:
        """The exit code of a child that has ended (−n: killed by signal n)."""
        try:
            return int(self.ask("reap", child.process))
        except HostLost:
            return -signal.SIGKILL  # it has ended with its parent; whoever asks next hears of that
        finally:
            self.forget(child)

    def lacked_memory(self, status: int) -> bool:
        """Whether a process of this host that has just ended so was killed by the kernel because memory ran out."""
        before, self._memory_kills = self._memory_kills, out_of_memory_kills()
        return status == -signal.SIGKILL and self._memory_kills > before

    def forget(self, child: Child) -> None:
        """Close what is held of a child."""
        self.children.remove(child)
        for file in (child.pidfd, child.output, child.report):
            os.close(file)

    def close(self) -> None:
        """Kill everything; nothing is left."""
        if not self._closed:
            self._closed = True
            self._end()

    def _end(self) -> None:
        if self._listen is not None:
            self._listen(None)
        for child in list(self.children):
            child.kill()
            self.forget(child)
        self._channel.close()
        self._process.kill()
        self._process.wait()
        os.close(self._stacks)
        if self._listen is not None:
            os.close(self._output)
            self._listen = None
        self._wait_for = readable
