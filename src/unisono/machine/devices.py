"""This host's cores, memory, CPU and accelerators, as a container's limits allow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")


@dataclass(frozen=True)
class Devices:
    """What a host offers.

    Attributes:
        cores: the usable cores, by number.
        memory_bytes: usable memory.
        cpu: the processor's name.
        features: what vector instructions it has.
        accelerators: device names; empty on a CPU host.
    """

    cores: tuple[int, ...]
    memory_bytes: int
    cpu: str
    features: tuple[str, ...]
    accelerators: tuple[str, ...]


def quota_cores(cpu_max: str) -> float | None:
    """The cores that a cgroup's `cpu.max` allows; None = no limit.

    >>> quota_cores("150000 100000"), quota_cores("max 100000")
    (1.5, None)
    """
    quota, _, period = cpu_max.partition(" ")
    return None if quota == "max" or not period else int(quota) / int(period)


def usable_cores() -> tuple[int, ...]:
    """Cores that this process may run on, at most as many as its cgroup grants (rounded up)."""
    cores = sorted(os.sched_getaffinity(0))
    limit = quota_cores(_read(_CGROUP / "cpu.max") or "max 100000")
    if limit is None:
        quota, period = _read(_CGROUP / "cpu/cpu.cfs_quota_us"), _read(_CGROUP / "cpu/cpu.cfs_period_us")
        if quota and period and int(quota) > 0:
            limit = int(quota) / int(period)
    return tuple(cores if limit is None else cores[: max(1, -int(-limit // 1))])


def usable_memory() -> int:
    """Bytes of memory, at most as much as the cgroup that this process is in and those above it grant."""
    total = int(psutil.virtual_memory().total)
    for path in _memory_limits(_read(Path("/proc/self/cgroup")) or ""):
        limit = _read(path)
        if limit and limit.isdigit():
            total = min(total, int(limit))
    return total


def _memory_limits(groups: str) -> Iterator[Path]:
    """Where limits on memory may stand, by the lines of /proc/self/cgroup.

    >>> [str(path.relative_to(_CGROUP)) for path in _memory_limits("0::/job")]
    ['memory.max', 'job/memory.max']
    >>> [str(path.relative_to(_CGROUP)) for path in _memory_limits("4:memory:/")]
    ['memory/memory.limit_in_bytes']
    """
    for line in groups.splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        folder, name = (_CGROUP / "memory", "memory.limit_in_bytes") if controllers else (_CGROUP, "memory.max")
        yield folder / name
        for part in Path(group).parts[1:]:
            folder = folder / part
            yield folder / name


def out_of_memory_kills() -> int:
    """A number that rises when the kernel kills a process of this cgroup or machine because memory ran out."""
    group = (_read(Path("/proc/self/cgroup")) or "").rpartition("::")[2].strip("/")
    counters = {_CGROUP / group / "memory.events", _CGROUP / "memory.events", Path("/proc/vmstat")}
    lines = [line.partition(" ") for path in counters for line in (_read(path) or "").splitlines()]
    return sum(int(value) for name, _, value in lines if name == "oom_kill")


def inspect() -> Devices:
    """Look at this host."""
    fields: dict[str, str] = {}
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return Devices(
        cores=usable_cores(),
        memory_bytes=usable_memory(),
        cpu=fields.get("model name", "unknown"),
        features=tuple(name for name in _FEATURES if name in flags),
        accelerators=tuple(_accelerators()),
    )


def _accelerators() -> list[str]:
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = (_read(path) or "").splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    return names


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
