"""Nothing is left on disk, however processes end: what they share there goes with the last of them."""

from __future__ import annotations

import os
import shutil
import tempfile


def shared_folder(prefix: str) -> str:
    """Make a temporary folder that is removed when this process, and all that it forks from now on, have ended.

    A small process waits for that: at the end of a pipe whose other end only they hold, and the kernel closes.

    Args:
        prefix: how its name begins.
    """
    folder = tempfile.mkdtemp(prefix=prefix)
    end, _held = os.pipe()
    if not os.fork():
        try:
            _remove_after(end, folder)
        finally:
            os._exit(0)
    os.close(end)
    return folder


def _remove_after(end: int, folder: str) -> None:
    os.setsid()
    os.dup2(end, 0)
    os.closerange(1, os.sysconf("SC_OPEN_MAX"))  # nobody is to wait for what this process holds
    os.read(0, 1)
    shutil.rmtree(folder, ignore_errors=True)
