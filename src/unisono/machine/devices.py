"""This host's cores, memory, CPU and accelerators, as a container's limits allow."""

from __future__ import annotations

import contextlib
import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

from unisono.machine.cores import physical_first

_CGROUP = Path("/sys/fs/cgroup")


def quota_cores(cpu_max: str) -> float | None:
    """The cores that a cgroup's `cpu.max` allows; None = no limit.

    >>> quota_cores("150000 100000"), quota_cores("max 100000")
    (1.5, None)
    """
    quota, _, period = cpu_max.partition(" ")
    return None if quota == "max" or not period else int(quota) / int(period)


def granted_cores() -> float | None:
    """The cores that the cgroup of this process and those above it grant together; None = no limit."""
    quotas = (quota_cores(_cpu_max(folder)) for folder in _folders(_groups(), "cpu"))
    return min((quota for quota in quotas if quota is not None), default=None)


def usable_cores() -> tuple[int, ...]:
    """Cores that this process may run on, best first, at most as many as its cgroup grants (rounded up)."""
    cores, limit = physical_first(tuple(os.sched_getaffinity(0))), granted_cores()
    return cores if limit is None else cores[: max(1, -int(-limit // 1))]


def usable_memory() -> int:
    """Bytes of memory, at most as much as the cgroup that this process is in and those above it grant."""
    limits = (_bytes(folder, "max", "limit_in_bytes") for folder in _folders(_groups(), "memory"))
    return min([int(psutil.virtual_memory().total), *(limit for limit in limits if limit is not None)])


def free_memory() -> int:
    """Bytes that can still be taken here: what files keep for later counts as free."""
    free = int(psutil.virtual_memory().available)
    for folder in _folders(_groups(), "memory"):
        limit, used = _bytes(folder, "max", "limit_in_bytes"), _bytes(folder, "current", "usage_in_bytes")
        if limit is not None and used is not None:
            kept = next((int(value) for name, value in _counters(folder / "memory.stat") if name == "inactive_file"), 0)
            free = min(free, max(0, limit - used + kept))
    return free


def tasks_left() -> float:
    """Processes and threads that this user may still start, as limits of the user and of cgroups stand."""
    left = math.inf
    for folder in _folders(_groups(), "pids"):
        most, now = read(folder / "pids.max"), read(folder / "pids.current")
        if most and now and most != "max":
            left = min(left, int(most) - int(now))
    most_of_user = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.geteuid() and most_of_user != resource.RLIM_INFINITY:  # root is not held to it
        left = min(left, most_of_user - _tasks_of(os.geteuid()))
    return left


def _tasks_of(user: int) -> int:
    """Processes and threads that a user has."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if process.stat().st_uid == user:
                count += sum(1 for _ in (process / "task").iterdir())
    return count


def _groups() -> str:
    return read(Path("/proc/self/cgroup")) or ""


def _folders(groups: str, controller: str) -> Iterator[Path]:
    """Where limits may stand, by the lines of /proc/self/cgroup.

    >>> [str(path.relative_to(_CGROUP)) for path in _folders("0::/job", "memory")]
    ['.', 'job']
    >>> [str(path.relative_to(_CGROUP)) for path in _folders("4:cpu,cpuacct:/", "cpu")]
    ['cpu']
    """
    for line in groups.splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            folder = _CGROUP / controller if controllers else _CGROUP
            yield folder
            for part in Path(group).parts[1:]:
                folder = folder / part
                yield folder


def _cpu_max(folder: Path) -> str:
    """A group's quota and period, in either version's file."""
    parts = read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")
    older = "max" if parts[0] in (None, "-1") else f"{parts[0]} {parts[1] or ''}"
    return read(folder / "cpu.max") or older


def _bytes(folder: Path, name: str, older: str) -> int | None:
    """A number of a group's memory, in either version's file; None = no such file, or no limit."""
    text = read(folder / f"memory.{name}") or read(folder / f"memory.{older}")
    return int(text) if text and text.isdigit() else None


def _counters(path: Path) -> Iterator[tuple[str, str]]:
    for line in (read(path) or "").splitlines():
        name, _, value = line.partition(" ")
        yield name, value


def out_of_memory_kills() -> int:
    """A number that rises when the kernel kills a process of this cgroup or machine because memory ran out."""
    group = _groups().rpartition("::")[2].strip("/")
    counters = {_CGROUP / group / "memory.events", _CGROUP / "memory.events", Path("/proc/vmstat")}
    return sum(int(value) for path in counters for name, value in _counters(path) if name == "oom_kill")


def _processor() -> dict[str, str]:
    """What the kernel says of the first core."""
    fields: dict[str, str] = {}
    for line in (read(Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def cpu_name() -> str:
    """The processor's name."""
    return _processor().get("model name", "unknown")


def cpu_flags() -> frozenset[str]:
    """What the processor can do, in the kernel's words."""
    fields = _processor()
    return frozenset(fields.get("flags", fields.get("Features", "")).split())


def accelerators() -> list[str]:
    """Device names; none on a CPU host."""
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = (read(path) or "").splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    return names


def read(path: Path) -> str | None:
    """What the kernel says in a file; None = nothing."""
    try:
        return path.read_text().strip()
    except OSError:
        return None
