"""Facts of broken machines, and what is said of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from unisono.machine.checks import check_machine, check_system
from unisono.machine.facts import Facts, Folder, gather
from unisono.machine.sizes import GIB

SOUND = Facts(
    cores=tuple(range(4)),
    memory_bytes=16 * GIB,
    cpu="a CPU",
    features=("avx2",),
    accelerators=(),
    all_cores=4,
    granted_cores=None,
    load=0.1,
    free_memory_bytes=12 * GIB,
    strict_memory=False,
    huge_pages="madvise",
    refused_calls={},
    waits_known=True,
    shared_memory=Folder("/dev/shm", True, 8 * GIB),
    temporary=Folder("/tmp", True, 8 * GIB),
    working=Folder("/home", True, 8 * GIB),
    limits={"open files (ulimit -n)": 1024, "file size (ulimit -f)": math.inf},
    tasks_left=math.inf,
)
FULL = Folder("/full", False, 0)
SCARCE = Folder("/scarce", True, 5 << 20)


def files(limit: int) -> dict[str, float]:
    return {"open files (ulimit -n)": limit}


def test_a_sound_machine_needs_no_mending() -> None:
    found = check_machine(SOUND)
    assert {(each.state, each.mend) for each in found} == {("ok", "")}
    assert len({each.name for each in found}) == len(found)


@pytest.mark.parametrize(("changed", "name", "state", "mend"), [
    ({"refused_calls": {"memfd_create": "not permitted"}}, "system calls", "wrong", "seccomp"),
    ({"granted_cores": 2.5}, "cores", "warning", "--workers 2"),
    ({"granted_cores": 4.0}, "cores", "ok", ""),
    ({"load": 2.0}, "load", "warning", "slowest worker"),
    ({"free_memory_bytes": GIB - 1}, "memory", "warning", "kills workers"),
    ({"strict_memory": True}, "memory", "warning", "vm.overcommit_memory=0"),
    ({"huge_pages": "never"}, "huge pages", "warning", "madvise"),
    ({"shared_memory": None}, "/dev/shm", "warning", "Ray"),
    ({"shared_memory": FULL}, "/dev/shm", "warning", "tmpfs"),
    ({"temporary": FULL}, "temporary folder", "wrong", "TMPDIR"),
    ({"temporary": SCARCE}, "temporary folder", "warning", "TMPDIR"),
    ({"working": FULL}, "this folder", "wrong", "--out"),
    ({"limits": files(59)}, "open files", "wrong", "ulimit -n 1024"),
    ({"limits": files(60)}, "open files", "ok", ""),
    ({"tasks_left": 15}, "processes", "wrong", "--pids-limit"),
    ({"tasks_left": 16}, "processes", "warning", "ulimit -u"),
    ({"tasks_left": 72}, "processes", "ok", ""),
    ({"limits": {**files(1024), "address space (ulimit -v)": GIB}}, "other limits", "warning", "ulimit -v unlimited"),
    ({"waits_known": False}, "schedstat", "warning", "--stall-seconds"),
])  # fmt: skip
def test_what_is_wrong_is_named_with_its_mend(changed: dict[str, Any], name: str, state: str, mend: str) -> None:
    found = {each.name: each for each in check_machine(replace(SOUND, **changed))}
    assert (found[name].state, mend in found[name].mend) == (state, True), found[name]
    assert {each.state for each in found.values() if each.name != name} == {"ok"}


def test_accelerators_are_named_and_not_used() -> None:
    facts = replace(SOUND, accelerators=("NVIDIA H200",))
    (found,) = (each for each in check_machine(facts) if each.name == "accelerators")
    assert (found.state, found.found) == ("ok", "NVIDIA H200: not used, Unisono trains on CPUs")


def test_another_system_is_wrong_with_the_way_out() -> None:
    found = check_system("Linux", "4.18.0")
    assert (found.state, "5.3" in found.mend) == ("wrong", True)


def test_this_machine_runs_the_tests_so_nothing_is_wrong_here() -> None:
    assert [each for each in check_machine(gather()) if each.state == "wrong"] == []
