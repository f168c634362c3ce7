"""What may stop a run on this machine or slow it down, gathered in one place and judged in `checks`."""

from __future__ import annotations

import math
import mmap
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unisono.machine.devices import (
    accelerators,
    cpu_flags,
    cpu_name,
    free_memory,
    granted_cores,
    read,
    tasks_left,
    usable_cores,
    usable_memory,
)  # fmt: skip

_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_LIMITS = {
    "open files (ulimit -n)": resource.RLIMIT_NOFILE,
    "file size (ulimit -f)": resource.RLIMIT_FSIZE,
    "address space (ulimit -v)": resource.RLIMIT_AS,
    "CPU time (ulimit -t)": resource.RLIMIT_CPU,
}


@dataclass(frozen=True)
class Folder:
    """A folder that is written to.

    Attributes:
        path: where.
        writable: whether this process may make files in it.
        free_bytes: space left.
    """

    path: str
    writable: bool
    free_bytes: int


@dataclass(frozen=True)
class Facts:
    """This machine as a run would find it.

    Attributes:
        cores: the usable cores, best first.
        memory_bytes: usable memory.
        cpu: the processor's name.
        features: what vector instructions it has.
        accelerators: device names; empty on a CPU host.
        all_cores: cores of the machine, usable or not.
        granted_cores: what cgroups grant of them; None = no limit.
        load: processes that ran or waited for a core in the last minute, on average.
        free_memory_bytes: of the usable memory.
        strict_memory: whether the kernel refuses memory that may never be touched (vm.overcommit_memory = 2).
        huge_pages: when the kernel makes them: always, madvise or never; empty = unknown.
        refused_calls: system calls that a run needs and that failed, with the error.
        waits_known: whether the kernel counts how long a process waits for a core.
        shared_memory: /dev/shm, or None.
        temporary, working: the folder for temporary files, and the present one.
        limits: of a process, by what people call it; infinite where there is none.
        tasks_left: processes and threads that may still be started.
    """

    cores: tuple[int, ...]
    memory_bytes: int
    cpu: str
    features: Sequence[str]
    accelerators: Sequence[str]
    all_cores: int
    granted_cores: float | None
    load: float
    free_memory_bytes: int
    strict_memory: bool
    huge_pages: str
    refused_calls: Mapping[str, str]
    waits_known: bool
    shared_memory: Folder | None
    temporary: Folder
    working: Folder
    limits: Mapping[str, float]
    tasks_left: float


def gather() -> Facts:
    """Look at this machine (Linux): a few milliseconds."""
    shared, flags = Path("/dev/shm"), cpu_flags()
    return Facts(
        cores=usable_cores(),
        memory_bytes=usable_memory(),
        cpu=cpu_name(),
        features=[name for name in _FEATURES if name in flags],
        accelerators=accelerators(),
        all_cores=os.cpu_count() or 1,
        granted_cores=granted_cores(),
        load=os.getloadavg()[0],
        free_memory_bytes=free_memory(),
        strict_memory=read(Path("/proc/sys/vm/overcommit_memory")) == "2",
        huge_pages=(read(_HUGE_PAGES) or "").partition("[")[2].partition("]")[0],
        refused_calls=_refused_calls(),
        waits_known=Path("/proc/self/schedstat").exists(),
        shared_memory=_folder(shared) if shared.is_dir() else None,
        temporary=_folder(_temporary()),
        working=_folder(Path()),
        limits={name: _limit(number) for name, number in _LIMITS.items()},
        tasks_left=tasks_left(),
    )


def _temporary() -> Path:
    """Python's folder for temporary files; what TMPDIR names where no place can be written to."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return Path(os.environ.get("TMPDIR", "/tmp"))


def _folder(path: Path) -> Folder:
    path = path.absolute()
    try:
        free = shutil.disk_usage(path).free
    except OSError:
        free = 0
    return Folder(str(path), _takes_files(path), free)


def _takes_files(path: Path) -> bool:
    """Tried, for rights say nothing of a file system that is read-only or full."""
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"unisono")
            file.flush()
        return True
    except OSError:
        return False


def _limit(number: int) -> float:
    soft, _ = resource.getrlimit(number)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def _refused_calls() -> dict[str, str]:
    """Try what the supervisor does at its start: a container may forbid any of it."""
    refused = {}
    for name, attempt in (
        ("memfd_create", _share_a_page),
        ("pidfd_open, pidfd_send_signal", _signal_this_process),
        ("sched_setaffinity", lambda: os.sched_setaffinity(0, os.sched_getaffinity(0))),
    ):
        try:
            attempt()
        except OSError as error:
            refused[name] = str(error)
    return refused


def _share_a_page() -> None:
    file = os.memfd_create("unisono-doctor", os.MFD_CLOEXEC)
    try:
        os.ftruncate(file, mmap.PAGESIZE)
        with mmap.mmap(file, mmap.PAGESIZE, flags=mmap.MAP_SHARED) as page:
            page[:1] = b"u"
    finally:
        os.close(file)


def _signal_this_process() -> None:
    file = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(file, 0)
    finally:
        os.close(file)
