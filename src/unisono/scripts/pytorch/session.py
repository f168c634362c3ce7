"""What a script's parallel calls share: parameters in shared memory, and the process that forks workers."""

from __future__ import annotations

import atexit
import contextlib
import gc
import itertools
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from functools import cache

import torch

from unisono.errors import JobError
from unisono.runtime.processes.channel import Channel, started
from unisono.runtime.processes.lifeline import Adoption
from unisono.runtime.processes.start import environment
from unisono.scripts.pytorch.hangs import await_answer
from unisono.scripts.pytorch.openmp import wait_asleep
from unisono.scripts.pytorch.private_copies import let_go, make_private
from unisono.scripts.pytorch.process import Process
from unisono.scripts.pytorch.spaces import NAME, Ref, Space, bytes_of


class Session:
    """One a process; forks of it have none."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.processes: set[Process] = set()
        self._numbers = itertools.count(1)
        self._spaces: list[Space] = []
        self._loans: list[tuple[weakref.ref[memoryview], Space]] = []
        self._parent: tuple[subprocess.Popen[bytes], Channel] | None = None
        self._imported: tuple[str, ...] = ()
        self._awaited: list[tuple[int, int]] = []
        os.register_at_fork(before=self._before, after_in_parent=self._forked, after_in_child=self._is_fork)
        atexit.register(self.close)

    def numbered(self) -> int:
        """A new space's number."""
        return next(self._numbers)

    # -- parameters ----------------------------------------------------------------------------------------

    def place(self, parameters: Sequence[torch.Tensor]) -> tuple[list[Ref], list[Space]]:
        """Have parameters lie in shared memory, each with a storage of its own; returns where, and the spaces."""
        self._forget_garbage()
        missing = [each for each in parameters if each.numel() and self._found(each) is None]
        if missing or (parameters and not self._spaces):  # those without elements lie somewhere too
            space = Space.create(self.numbered(), sum(map(bytes_of, missing)))
            self._spaces.append(space)
            for parameter in missing:
                with torch.no_grad():
                    parameter.data = space.view(space.put(parameter.detach()))
        refs = [self._found(parameter) or self._empty(parameter) for parameter in parameters]
        used = {ref.space for ref in refs}
        return refs, [space for space in self._spaces if space.number in used]

    def _forget_garbage(self) -> None:
        """Models that nobody has any more end their workers; their parameters' memory is given back."""
        gc.collect()
        for space in [space for space in self._spaces if not space.is_viewed]:
            space.close()
            self._spaces.remove(space)

    def _empty(self, parameter: torch.Tensor) -> Ref:
        return Ref(self._spaces[0].number, 0, parameter.dtype, tuple(parameter.shape), parameter.stride(), False)

    def _found(self, parameter: torch.Tensor) -> Ref | None:
        address = parameter.data_ptr()
        for space in self._spaces:
            if parameter.numel() and space.address <= address < space.address + space.size:
                place = address - space.address
                return Ref(space.number, place, parameter.dtype, tuple(parameter.shape), parameter.stride(), False)
        return None

    def lend(self, space: Space) -> memoryview:
        """See `Space.lent`; forks have copies of what is lent."""
        self._loans = [(lease, each) for lease, each in self._loans if lease() is not None]
        memory = space.lent()
        self._loans.append((weakref.ref(memory), space))
        return memory

    # -- processes -----------------------------------------------------------------------------------------

    def prepare(self, imports: Sequence[str]) -> None:
        """Have the process that forks workers started, and what workers import imported there."""
        new = tuple(name for name in imports if name not in self._imported)
        if self._parent is None:
            wait_asleep(os.environ)
            self._parent = started(
                "unisono.scripts.pytorch.warm_parent", env=environment(), process_group=0
            )  # a terminal's Ctrl-C is the script's
            new = tuple(imports)
        if new:
            self._imported += new
            with contextlib.suppress(ConnectionError):  # it was killed: seen when it is to fork
                self._parent[1].send(("import", list(sys.path), list(new)))

    def fork(self) -> Process:
        """A new worker.

        Raises:
            JobError: the system starts none.
        """
        for _ in range(2):  # the process that forks may have been killed
            self.prepare(())
            assert self._parent is not None
            try:
                return self._forked_by(*self._parent)
            except (EOFError, ConnectionError):
                self._end_parent()
        raise JobError("the process that forks a script's workers ends at once. Use workers=0, and look at its output.")

    def _forked_by(self, starter: subprocess.Popen[bytes], parent: Channel) -> Process:
        mine, theirs = socket.socketpair()
        adoption = Adoption()
        try:
            parent.send(("fork",), [theirs.fileno(), adoption.start])
            await_answer(parent, starter.pid)
            process, _ = parent.receive()
        except BaseException:
            adoption.fails()
            mine.close()
            self._end_parent()  # what it may still answer is not for the next one
            raise
        finally:
            theirs.close()
            os.close(adoption.start)
        if isinstance(process, str):
            adoption.fails()
            mine.close()
            raise JobError(
                f"the system starts no more processes ({process}): allow more (ulimit -u), or use workers=0."
            )
        made = Process(process, adoption.begins(process), Channel(mine))
        self.processes.add(made)
        return made

    def end(self, process: Process) -> int:
        """End a worker; returns its exit code."""
        if process not in self.processes:  # of a fork of this process, which has none, or ended with all
            return 0
        self.processes.discard(process)
        return process.end()

    def _end_parent(self) -> None:
        if self._parent is not None:
            process, channel = self._parent
            channel.close()
            process.kill()
            process.wait()
            self._parent, self._imported = None, ()

    def close(self) -> None:
        """End all processes."""
        if os.getpid() == self.owner:
            for process in list(self.processes):
                self.end(process)
            self._end_parent()

    # -- forks of the script -------------------------------------------------------------------------------

    def _before(self) -> None:
        if os.getpid() == self.owner and self._spaces:
            self._awaited.append(os.pipe())

    def _forked(self) -> None:
        """Wait until the child has copies of its own: it is to have the values of now."""
        if os.getpid() == self.owner and self._awaited:
            reading, writing = self._awaited.pop()
            os.close(writing)
            os.read(reading, 1)
            os.close(reading)

    def _is_fork(self) -> None:
        if not self._spaces and session.cache_info().currsize and session() is self:
            session.cache_clear()  # nothing has been called yet: a fork's calls are its own
        for space in [*self._spaces, *(each for lease, each in self._loans if lease() is not None)]:
            make_private(space.address, space.size)
            space.close()
        let_go(NAME)  # what calls lie in is nothing to a fork
        for process in self.processes:
            process.forget()
        if self._parent is not None:
            self._parent[1].close()
        for reading, writing in self._awaited:
            os.close(reading)
            os.close(writing)
        self._spaces, self._loans, self._awaited, self._parent, self.processes = [], [], [], None, set()


@cache
def session() -> Session:
    """This process's, from its first parallel call on."""
    return Session()


def is_of_another_process() -> bool:
    """Whether this process is a fork of one that computes in parallel."""
    return bool(session.cache_info().currsize) and session().owner != os.getpid()
