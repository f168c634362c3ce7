"""What a machine's facts mean for a run: pure, so a broken machine need not be at hand."""

from __future__ import annotations

import math

from unisono.errors import UsageError
from unisono.machine.facts import Facts, Folder
from unisono.machine.finding import Finding, State
from unisono.machine.platform_check import require_linux
from unisono.machine.sizes import GIB, size

LEAST_FREE_BYTES = GIB
"""A worker holds 0.2 (JAX) to 0.5 GiB (TensorFlow) before it has a model."""

FILES, FILES_PER_WORKER = 40, 5
"""Open files of a run's supervisor: 26, 4 a worker and one for its core were counted."""

TASKS, TASKS_PER_WORKER, THREADS_PER_WORKER = 8, 2, 16
"""Processes of a run: each worker has a loader; TensorFlow and JAX have threads besides."""


def check_system(system: str, release: str) -> Finding:
    """Linux, and new enough: nothing else can be looked at elsewhere.

    >>> check_system("Linux", "6.1.0").state, check_system("Darwin", "23.0").state
    ('ok', 'wrong')
    """
    try:
        require_linux(system, release)
    except UsageError as error:
        return Finding("system", "wrong", f"{system} {release}", str(error))
    return Finding("system", "ok", f"{system} {release}")


def check_devices(facts: Facts) -> list[Finding]:
    """What a machine has."""
    return [_cores(facts), _cpu(facts), _accelerators(facts), _memory(facts)]


def check_machine(facts: Facts) -> list[Finding]:
    """All that can be said of a machine."""
    return [
        *check_devices(facts),
        _load(facts),
        _calls(facts),
        _huge_pages(facts),
        _shared_memory(facts),
        _folder("temporary folder", facts.temporary, "Set TMPDIR to a folder with space."),
        _folder("this folder", facts.working, "Runs are written to ./runs: go elsewhere, or give train --out."),
        _files(facts),
        _tasks(facts),
        _other_limits(facts),
        _waits(facts),
    ]


def _calls(facts: Facts) -> Finding:
    if not facts.refused_calls:
        return Finding("system calls", "ok", "memfd, pidfd and affinity are allowed")
    found = "; ".join(f"{name}: {error}" for name, error in facts.refused_calls.items())
    return Finding(
        "system calls", "wrong", found, "Workers share memory and are watched by them: allow them in the container's "
        "seccomp profile (docker run --security-opt seccomp=unconfined, if nothing narrower is at hand)."
    )  # fmt: skip


def _cores(facts: Facts) -> Finding:
    cores, granted = facts.cores, facts.granted_cores
    found = f"{len(cores)} of {facts.all_cores} usable ({_numbers(cores)})"
    if granted is None or granted >= len(cores):
        return Finding("cores", "ok", found)
    fewer = max(1, int(granted))
    mend = f"All workers stop together when the quota is spent: give --workers {fewer}, or grant whole cores."
    return Finding("cores", "warning", f"{found}, of which the cgroup grants {granted:g}", mend)


def _load(facts: Facts) -> Finding:
    found = f"{facts.load:.2f} processes at work on {facts.all_cores} cores in the last minute"
    mend = "Others take the cores, and every step waits for the slowest worker: end them, or wait."
    return Finding.of("load", facts.load < max(0.5, facts.all_cores / 2), found, mend)


def _cpu(facts: Facts) -> Finding:
    features = ", ".join(facts.features) or "no vector instructions that are known"
    return Finding("CPU", "ok", f"{facts.cpu} ({features})")


def _accelerators(facts: Facts) -> Finding:
    names = facts.accelerators
    return Finding("accelerators", "ok", f"{', '.join(names)}: not used, Unisono trains on CPUs" if names else "none")


def _memory(facts: Facts) -> Finding:
    found = f"{size(facts.free_memory_bytes)} free of {size(facts.memory_bytes)}"
    if facts.free_memory_bytes >= LEAST_FREE_BYTES and facts.strict_memory:
        mend = "A process may be refused a fork for memory that it would never touch: sysctl vm.overcommit_memory=0"
        return Finding("memory", "warning", f"{found}; vm.overcommit_memory is 2", mend)
    mend = "The kernel kills workers when it runs out: end others, raise the cgroup's limit, or give fewer --workers."
    return Finding.of("memory", facts.free_memory_bytes >= LEAST_FREE_BYTES, found, mend)


def _huge_pages(facts: Facts) -> Finding:
    file = "/sys/kernel/mm/transparent_hugepage/enabled"
    mend = f"A large MLP's step took 10 % longer without them: echo madvise > {file}"
    return Finding.of("huge pages", facts.huge_pages in ("always", "madvise"), facts.huge_pages or "unknown", mend)


def _shared_memory(facts: Facts) -> Finding:
    """Not asked for by Unisono, whose segments have no name; so it never stops a run."""
    folder, mend = (
        facts.shared_memory,
        "Unisono works without it; Ray and PyTorch's DataLoader do not: mount a tmpfs there.",
    )
    if folder is None:
        return Finding("/dev/shm", "warning", "not there", mend)
    if not folder.writable:
        return Finding("/dev/shm", "warning", "not writable, or full", mend)
    return Finding(
        "/dev/shm", "ok", f"{size(folder.free_bytes)} free (not used by Unisono, which shares memory by memfd)"
    )


def _folder(name: str, folder: Folder, mend: str) -> Finding:
    if not folder.writable:
        return Finding(name, "wrong", f"{folder.path} takes no files", mend)
    found = f"{folder.path}, {size(folder.free_bytes)} free"
    return Finding.of(name, folder.free_bytes >= LEAST_FREE_BYTES, found, mend)


def _files(facts: Facts) -> Finding:
    name, workers = "open files (ulimit -n)", len(facts.cores)
    limit, needed = facts.limits[name], FILES + FILES_PER_WORKER * workers
    if limit >= needed:
        return Finding("open files", "ok", _number(limit))
    more = max(1024, 2 * needed)
    mend = f"{workers} workers need {needed}, and the job's own besides: ulimit -n {more}, or give fewer --workers."
    return Finding("open files", "wrong", f"{limit:.0f} (ulimit -n)", mend)


def _tasks(facts: Facts) -> Finding:
    workers, left = len(facts.cores), facts.tasks_left
    found = f"{_number(left)} may still be started"
    state: State = "wrong" if left < TASKS + TASKS_PER_WORKER * workers else "warning"
    mend = (
        f"{workers} workers are {TASKS_PER_WORKER * workers} processes with threads: raise ulimit -u or the cgroup's "
        "pids.max (docker run --pids-limit), or give fewer --workers."
    )
    return Finding.of("processes", left >= TASKS + THREADS_PER_WORKER * workers, found, mend, state)


def _other_limits(facts: Facts) -> Finding:
    """Limits that most people never set, and batch systems do."""
    set_here = {name: limit for name, limit in facts.limits.items() if "files" not in name and limit < math.inf}
    if not set_here:
        return Finding("other limits", "ok", "none on file size, address space and CPU time")
    found = "; ".join(f"{name}: {limit:.0f}" for name, limit in set_here.items())
    mend = (
        "A run's processes end where they pass one (shared memory counts as file and address space): ulimit … unlimited"
    )
    return Finding("other limits", "warning", found, mend.replace("…", " ".join(name[-3:-1] for name in set_here)))


def _waits(facts: Facts) -> Finding:
    if facts.waits_known:
        return Finding("schedstat", "ok", "the kernel tells a slow worker from a hung one")
    mend = (
        "A worker that waits long for a core may be taken for hung and replaced: give train a larger --stall-seconds."
    )
    return Finding("schedstat", "warning", "/proc/PID/schedstat is not there", mend)


def _numbers(cores: tuple[int, ...]) -> str:
    """
    >>> _numbers((0, 2, 5, 1)), _numbers((3,))
    ('0-2, 5', '3')
    """
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _number(limit: float) -> str:
    return "no limit" if math.isinf(limit) else f"{limit:.0f}"
