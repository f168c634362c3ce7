"""What this process holds open that its forks would share: files with a position, sockets, pipes; and its threads."""

from __future__ import annotations

import gc
import os
import stat
from collections.abc import Mapping
from pathlib import Path

_MAPPED_PRIVATELY = ("r--p", "r-xp", "rw-p", "rwxp", "r--s")
"""Mappings through which processes disturb nobody, as /proc/self/maps writes their permissions."""


def shared_by_forks() -> Mapping[int, str]:
    """Descriptors that are read through a place that all forks share, with what they lead to.

    A file that is mapped, and not written through its mapping, is read there: each process has a place of its own. What
    can only be written is no data.
    """
    mapped = _mapped()
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            seen, target = link.stat(), str(link.readlink())
        except OSError:  # the folder's own
            continue
        is_file = stat.S_ISREG(seen.st_mode) and seen.st_ino not in mapped and not target.startswith("/memfd:unisono")
        is_stream = stat.S_ISSOCK(seen.st_mode) or stat.S_ISFIFO(seen.st_mode)
        if (is_file or is_stream) and not _is_written(link.name):
            found[int(link.name)] = target
    return found


def opened_since(before: Mapping[int, str]) -> Mapping[int, str]:
    """What has been opened, and is open still.

    Args:
        before: what `shared_by_forks` gave then.
    """
    now = shared_by_forks()
    if now.items() - before.items():
        gc.collect()  # what nobody holds any more is no longer open
        now = shared_by_forks()
    return {number: target for number, target in now.items() if before.get(number) != target}


def _is_written(descriptor: str) -> bool:
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    flags = next(int(value, 8) for name, value in (line.split() for line in lines) if name == "flags:")
    return flags & os.O_ACCMODE == os.O_WRONLY


def _mapped() -> set[int]:
    """The files' numbers."""
    found: set[int] = set()
    others: set[int] = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        _, permissions, _, _, inode, *_ = line.split()
        (found if permissions in _MAPPED_PRIVATELY else others).add(int(inode))
    return found - others


def is_single() -> bool:
    """Whether this process has one thread, and so can be forked."""
    return len(list(Path("/proc/self/task").iterdir())) == 1
