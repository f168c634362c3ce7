"""The way to a warm parent: a process that is asked one thing at a time, and waited for."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from unisono.errors import Interrupted, JobError
from unisono.errors.failure import MEMORY_WAYS_OUT, Failure
from unisono.machine.devices import out_of_memory_kills
from unisono.observe.logs import LineLog
from unisono.runtime.processes.channel import Channel
from unisono.runtime.processes.deaths import Death
from unisono.runtime.processes.lifeline import reap, status_of
from unisono.runtime.processes.start import warm_parent
from unisono.runtime.supervisor.answers import Answers, Silence, readable
from unisono.runtime.supervisor.delays import LOOK_SECONDS
from unisono.runtime.supervisor.outputs import Outputs


class WarmParentLost(JobError):
    """The warm parent is dead."""


@dataclass
class Copy:
    """A warm parent that another one has forked.

    Args:
        process, pidfd: it.
    """

    pid: int
    pidfd: int
    status: int | None = None

    def kill(self) -> None:
        """End it."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        if self.status is None:
            readable(self.pidfd, None)
            self.status = status_of(self.pidfd)
            os.close(self.pidfd)
        return self.status


Started = tuple[subprocess.Popen[bytes] | Copy, Channel, int]
"""A parent, the channel to it, and the file for its stacks."""


class ParentLink:
    """The process, and whoever takes over from it.

    It starts at once, and what it prints goes where this process prints, until `attach`. Every method runs in the
    thread that made it.

    Args:
        started: one that has been started already; None = one is started now.

    Attributes:
        answers: how it is waited for.
        is_lost: whether there is nobody to be asked.
    """

    def __init__(self, started: Started | None = None) -> None:
        self.started = time.monotonic()
        self.answers = Answers(lambda text: None)
        self.is_lost = False
        self._memory_kills = out_of_memory_kills()
        self._attached: tuple[Outputs, Callable[[], LineLog]] | None = None
        self._output = -1
        self._then: Callable[[Any], None] | None = None
        self._groups: list[int] = []
        self._start(started)

    def _start(self, started: Started | None = None) -> None:
        self._process, self._channel, self._stacks = started or warm_parent()
        self._groups.append(self._process.pid)
        self.is_lost = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def process(self) -> int:
        """The parent's number."""
        return self._process.pid

    @property
    def is_free(self) -> bool:
        """Whether it can be asked something."""
        return self._then is None and not self.is_lost

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

    def ask(self, *message: Any, files: Sequence[int] = ()) -> Any:
        """Send a request and wait for the answer.

        Raises:
            UsageError, JobError: the job could not do it.
            WarmParentLost: there is nobody to do it.
        """
        return self._heard(self._asked(*message, files=files))

    def _asked(self, *message: Any, files: Sequence[int] = ()) -> list[Any]:
        """Send a request, once what was asked before is answered; its answer comes into the list."""
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
            then: called with the answer, with a `Failure`, or with the `WarmParentLost` that has come instead.

        Raises:
            WarmParentLost: there is nobody to answer.
            OSError: the files may not travel.
        """
        if self.is_lost:
            raise WarmParentLost("the process that holds the job is gone.")
        with contextlib.suppress(ConnectionError):  # `hear` says it
            self._channel.send(message, files)
        self._then = then
        self.answers.begin(message[0], self._process.pid, self._stacks)

    def hear(self) -> None:
        """Take the answer that has come.

        Raises:
            WarmParentLost: the parent has died instead.
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
            WarmParentLost: patience is over, and it was ended.
        """
        if self._then is None:
            return
        try:
            self.answers.look()
        except Silence as silence:
            text = f"the process that holds the job made no progress and was ended{silence}."
            raise self._lost(text) from silence

    def _lost(self, text: str) -> WarmParentLost:
        lost = WarmParentLost(text)
        self.end(lost)
        return lost

    def lacked_memory(self, status: int) -> bool:
        """Whether a process of this host that has just ended so was killed by the kernel because memory ran out."""
        before, self._memory_kills = self._memory_kills, out_of_memory_kills()
        return status == -signal.SIGKILL and self._memory_kills > before

    # -- its end -------------------------------------------------------------------------------------------

    def end(self, lost: WarmParentLost | None = None) -> None:
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
            then(lost or WarmParentLost("the process that holds the job is not needed any more."))

    def close(self) -> None:
        """Kill it, once all of its children are buried; nothing is left."""
        self.end()
        for group in self._groups:
            reap(group)
