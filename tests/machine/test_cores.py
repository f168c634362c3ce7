"""Physical cores come first, and runs of one machine take different ones."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed in this environment", allow_module_level=True)

import jobs
import unisono
from unisono.machine.cores import Claims, physical_count, physical_first
from waiting import until

NUMBERS = count(1_000_000 + 10_000 * (os.getpid() % 50_000))
"""Of cores that nobody has."""


@pytest.fixture
def cores() -> tuple[int, ...]:
    return tuple(next(NUMBERS) for _ in range(4))


@pytest.fixture
def claims() -> Iterator[list[Claims]]:
    made: list[Claims] = []
    yield made
    for each in made:
        each.close()


def machine(folder: Path, *siblings: str) -> Path:
    """A machine whose core N is a thread of the physical core with these threads."""
    for core, names in enumerate(siblings):
        (folder / f"cpu{core}" / "topology").mkdir(parents=True)
        (folder / f"cpu{core}" / "topology" / "thread_siblings_list").write_text(names + "\n")
    return folder


@pytest.mark.parametrize(
    ("siblings", "order", "number"),
    [
        (("0,2", "1,3", "0,2", "1,3"), (0, 1, 2, 3), 2),
        (("0-1", "0-1", "2-3", "2-3"), (0, 2, 1, 3), 2),
        (("0", "1", "2", "3"), (0, 1, 2, 3), 4),
        ((), (0, 1, 2, 3), 4),
    ],
)
def test_physical_cores_come_first(
    siblings: tuple[str, ...], order: tuple[int, ...], number: int, tmp_path: Path
) -> None:
    topology = machine(tmp_path, *siblings)
    assert physical_first((3, 2, 1, 0), topology) == order
    assert physical_count((0, 1, 2, 3), topology) == number


def test_a_core_is_one_runs_at_a_time(cores: tuple[int, ...], claims: list[Claims]) -> None:
    one, other = Claims(cores[:3], 2), Claims(cores[:3], 1)
    claims += [one, other]
    assert (one.of(0), one.of(1)) == (cores[:2], None), "a worker of two threads takes two cores, or none"
    assert (other.of(0), other.of(1)) == ((cores[2],), None)
    assert one.of(0) == cores[:2], "a worker's successor has its cores"
    one.close()
    assert other.of(1) == (cores[0],)


def test_who_is_killed_gives_its_cores_back(cores: tuple[int, ...], claims: list[Claims]) -> None:
    code = f"from unisono.machine.cores import Claims\nc = Claims({cores}, 4)\nprint(c.of(0), flush=True)\ninput()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().strip() == str(cores)
        claims.append(Claims(cores, 1))
        assert claims[0].of(0) is None
        owner.kill()
        owner.wait()
        assert claims[0].of(0) == cores[:1]


def test_two_runs_never_share_a_core_to_which_they_are_held(tmp_path: Path) -> None:
    runs = [unisono.start(jobs.make(steps=jobs.FOR_EVER), workers=1, out=tmp_path / name) for name in ("one", "two")]
    try:
        until(lambda: all(run.history for run in runs), "both train")
        processes = psutil.Process().children(recursive=True)
        workers = [process.pid for process in processes if process.name() == "unisono-worker"]
        held = [tuple(sorted(os.sched_getaffinity(process))) for process in workers]
        assert len(held) == len(runs)
        assert held[0] != held[1] or len(held[0]) > 1, held
    finally:
        for run in runs:
            run.stop()
        for run in runs:
            run.wait()
