"""No process of Unisono's outlives the one that looks after it."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 1, 36, 37

_NUMBER = struct.Struct("=i")
"""A process's, as one tells another."""

_lock = threading.Lock()
_awaited = 0
_before = 0


def prctl(option: int, value: Any) -> None:
    """Have the kernel do something with this process (see prctl(2)).

    Raises:
        OSError: it does not.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that is its parent ends."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Adoption:
    """From now on processes below this one are its children when their parents end, until the one that is awaited is.

    The kernel makes them the main thread's children, whichever thread this is.

    Attributes:
        start: where the new child waits to be told to begin; who forks it gets this, and then it is closed here.

    Raises:
        OSError: this process is at a limit, or the kernel does not do that.
    """

    def __init__(self) -> None:
        self.start, self._tell = os.pipe()
        try:
            _adopt(1)
        except OSError:
            os.close(self.start)
            os.close(self._tell)
            raise

    def begins(self, process: int) -> int:
        """The child is there: it is told to begin, and ends with this process from then on.

        Args:
            process: its number.

        Returns:
            Its pidfd.

        Raises:
            OSError: this process is at a limit; the child ends.
        """
        try:
            pidfd = os.pidfd_open(process)
            with suppress(BrokenPipeError):  # it has ended already
                os.write(self._tell, b"\0")
            return pidfd
        finally:
            self.fails()

    def fails(self) -> None:
        """No child is wanted any more; one that has not been told to begin ends."""
        _adopt(-1)
        os.close(self._tell)


def _adopt(more: int) -> None:
    """So many more adoptions are awaited, in all threads. After the last one, orphans go where they went before."""
    global _awaited, _before
    with _lock:
        if not _awaited:
            found = ctypes.c_int()
            prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found))
            _before = found.value
        prctl(_PR_SET_CHILD_SUBREAPER, 1 if _awaited + more else _before)
        _awaited += more


def fork_for(parent: int, start: int, live: Callable[[], int]) -> int:
    """Fork a process that another one, which adopts, has for its child from the start: it outlives this one.

    Its first parent is a process between, which ends at once. It waits then until it is told to begin, and ends with
    its new parent from then on.

    Args:
        parent: who adopts.
        start: where that tells it to begin; where that is closed without a word, it ends.
        live: its life; returns its exit status.

    Returns:
        Its number; by then it is adopted.

    Raises:
        OSError: the system starts no more processes.
    """
    own = os.getpid()
    told, telling = os.pipe()
    try:
        between = os.fork()
        if not between:
            _end_with(lambda: _between(own, telling, lambda: _begin(parent, start, live)))
    except OSError:
        os.close(told)
        raise
    finally:
        os.close(telling)
    number = os.read(told, _NUMBER.size)
    os.close(told)
    _, status = os.waitpid(between, 0)
    if status or not number:
        reason = os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else errno.EAGAIN
        raise OSError(reason, os.strerror(reason))
    return int(_NUMBER.unpack(number)[0])


def _between(parent: int, telling: int, begin: Callable[[], int]) -> int:
    """The life of the process between; returns why it could not fork, or 0."""
    die_with_parent(parent)
    try:
        process = os.fork()
    except OSError as error:
        return error.errno or errno.EAGAIN
    if not process:
        _end_with(begin)
    os.write(telling, _NUMBER.pack(process))
    return 0


def _begin(parent: int, start: int, live: Callable[[], int]) -> int:
    if not os.read(start, 1):
        return 1
    os.close(start)
    die_with_parent(parent)
    return live()


def _end_with(life: Callable[[], int]) -> NoReturn:
    """Live, and end with the exit status that it returns."""
    status = 1
    try:
        status = life()
    finally:
        os._exit(status)


def status_of(pidfd: int) -> int:
    """The exit code of a child of this process that has ended (−n: killed by signal n).

    Args:
        pidfd: the process. Where somebody else has waited for it, it counts as killed from outside.
    """
    try:
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        return -signal.SIGKILL
    assert found is not None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def reap(group: int) -> None:
    """Forget the children of this process in a process group that have ended and that nobody has asked about.

    Args:
        group: its number.
    """
    with suppress(ChildProcessError):
        while os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG):
            pass
