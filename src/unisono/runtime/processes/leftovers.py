"""Nothing is left on disk, however processes end: what they share there goes with the last of them.

Who has a folder holds a lock in it, and so does whatever it forks; the kernel lets go of it when they are gone. That
works between containers too, where one cannot see another's processes. What is left because everything was killed at
once is swept by the next start.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from unisono.checkpoint import store
from unisono.observe.metrics import METRICS
from unisono.observe.run_folder import CHECKPOINTS, SOCKET

COMPILED, VERIFY, COMPARE = "unisono-compiled-", "unisono-verify-", "unisono-compare-"
"""How names of temporary folders begin."""

_LOCK, _CONTENT = "owner.lock", "content"


def shared_folder(prefix: str) -> Path:
    """Make a temporary folder that is removed when this process, and all that it forks from now on, have ended.

    A small process waits for that, and gets the lock then.

    Args:
        prefix: how its name begins.
    """
    folder, _held = _owned(prefix)
    if not os.fork():
        try:
            _remove_after(folder)
        finally:
            os._exit(0)
    return folder / _CONTENT


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder for a block.

    Args:
        prefix: how its name begins.
    """
    folder, held = _owned(prefix)
    try:
        yield folder / _CONTENT
    finally:
        _remove(folder)
        os.close(held)


def _owned(prefix: str) -> tuple[Path, int]:
    """A folder and its lock, which is held before the folder has the name by which others look for it."""
    made = Path(tempfile.mkdtemp(prefix=f".{prefix}"))
    held = os.open(made / _LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    (made / _CONTENT).mkdir()
    return made.rename(made.with_name(made.name.removeprefix("."))), held


def _remove_after(folder: Path) -> None:
    os.setsid()
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))  # nobody is to wait for what this process holds
    fcntl.flock(os.open(folder / _LOCK, os.O_WRONLY), fcntl.LOCK_EX)
    _remove(folder)


def _remove(folder: Path) -> None:
    """The lock goes last: a folder that is half removed can be swept."""
    shutil.rmtree(folder / _CONTENT, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _nobodys(lock: Path) -> Iterator[None]:
    """Hold somebody's lock for a block.

    Raises:
        OSError: there is none, or its owner lives.
    """
    file = os.open(lock, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(file)


def sweep_temporary() -> None:
    """Remove this user's temporary folders whose owners are gone."""
    for prefix in (COMPILED, VERIFY, COMPARE):
        for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            with suppress(OSError):
                if folder.lstat().st_uid == os.geteuid():
                    with _nobodys(folder / _LOCK):
                        _remove(folder)


def sweep_run(folder: Path) -> None:
    """Remove what a killed run has left in its folder, unless a run holds it.

    Args:
        folder: the run's.
    """
    lock = folder / METRICS  # a run has it as soon as it begins
    with suppress(OSError), _nobodys(lock) if os.path.lexists(lock) else nullcontext():
        remove_unfinished(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove what has no meaning without the process that made it.

    Args:
        folder: a run's.
    """
    store.sweep(folder / CHECKPOINTS)
    for path in (folder / SOCKET, *folder.glob("*.tmp"), *folder.glob("*.tmp.*")):
        with suppress(OSError):
            path.unlink()
