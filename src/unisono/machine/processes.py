"""Which process a number means: numbers are used again."""

from __future__ import annotations

from pathlib import Path


def birth(process: int) -> str | None:
    """What tells a process from any other that ever has its number: the boot of its machine, and the tick of its start.

    Args:
        process: its number.

    Returns:
        None where there is none, or only its entry is left.

    >>> import os
    >>> birth(os.getpid()) == birth(os.getpid()), birth(2**62)
    (True, None)
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    except (OSError, ValueError):  # ValueError: it ends while it is read
        return None
    return None if state in (b"Z", b"X") else f"{boot} {int(fields[18])}"
