"""Unisono runs on Linux: shared memory files, process files and futexes are its ground."""

from __future__ import annotations

import platform
import re

from unisono.errors import UsageError

OLDEST_KERNEL = (5, 3)


def require_linux(system: str | None = None, release: str | None = None) -> None:
    """Check the system.

    Args:
        system: its name; default: this one's.
        release: its kernel release; default: this one's.

    Raises:
        UsageError: another system, or a kernel before 5.3.

    >>> require_linux("Linux", "6.1.0-generic")
    """
    system, release = system or platform.system(), release or platform.release()
    if system != "Linux":
        way = "WSL2 or Docker" if system == "Windows" else "Docker"
        raise UsageError(
            f"Unisono needs Linux; received {system}. Run it under {way} (on Windows WSL2 or Docker, on macOS Docker)."
        )
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and tuple(map(int, numbers.groups())) < OLDEST_KERNEL:
        raise UsageError(f"Unisono needs Linux 5.3 or newer; received {release}. Update the kernel.")
