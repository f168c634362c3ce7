"""The check that a machine with a GPU runs, on one that has none: what it finds with the CPU as a device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import faults
from benchmarks import gpu_check
from command_line import ROOT
from unisono.runtime.supervisor.outcome import raise_failure
from waiting import limit

SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


def checked(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The script, which finds Unisono by itself, where no driver's program is found."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PATH")}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, timeout=limit()
    )


def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path) -> None:
    done = checked("--out", str(tmp_path / "gpu.json"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "no GPU here\n", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_its_plain_loop_has_the_bits_of_a_run(kind: str) -> None:
    job = gpu_check.made(kind, 8, 24, 3)
    outcome, records, _ = faults.run(job)
    raise_failure(outcome)
    found = gpu_check.digest(outcome.state.saved(3).arrays)
    assert gpu_check.plain(job, "cpu") == (found, [record["loss"] for record in records if "loss" in record])


def lost() -> tuple[str, list[float]]:
    raise ValueError("the device is gone")


@pytest.mark.parametrize(("ways", "holds", "differs"), [
    ({"one": lambda: ("a", [1.0, 2.0]), "two": lambda: ("a", [1.0, 2.0])}, True, None),
    ({"one": lambda: ("a", [1.0, 2.0]), "two": lambda: ("b", [1.0, 3.0])}, False, 2),
    ({"two": lambda: ("a", [1.0]), "one": lost}, False, None),
    ({"one": lost}, False, None),
])  # fmt: skip
def test_ways_that_differ_are_named(ways: dict[str, Any], holds: bool, differs: int | None) -> None:
    found = gpu_check.compared(ways)
    assert found["holds"] is holds
    assert found.get("two", {}).get("first step that differs") == differs
    assert found["one"] == "ValueError: the device is gone" or isinstance(found["one"], dict)


def test_a_part_without_time_is_left_out_and_what_is_known_stays(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu_check.keep(out, "bits", {"holds": True})
    assert not gpu_check.begun("late", out, True, 0)
    assert gpu_check.results(out)["parts"] == {
        "bits": {"holds": True}, "late": {"ended": "left out: no time was left"},
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


def found_by(folder: Path, *parts: str) -> list[dict[str, Any]]:
    """What parts find with the CPU in a GPU's place."""
    out = folder / "gpu.json"
    done = checked("--stand-in", "--only", ",".join(parts), "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())["parts"]
    assert [part["ended"] for part in found.values()] == ["done"] * len(parts)
    return [found[name] for name in parts]


@pytest.mark.thorough
def test_the_machine_is_described_and_a_child_computes(tmp_path: Path) -> None:
    (found,) = found_by(tmp_path, "environment")
    assert (found["forked"], found["pooled"][0], found["refused_calls"]) == ("512.0", "[", {})


@pytest.mark.thorough
def test_bits_are_compared(tmp_path: Path) -> None:
    bits, filled = found_by(tmp_path, "bits", "filled")
    for job in ("cnn", "transformer"):
        found = {name: each["digest"] for name, each in bits[job].items() if name != "holds"}
        assert list(found) == ["workers=1", "workers=2", "plain loop", "debug"]
        assert {*found.values(), filled[job]["workers=2"]["digest"]} == {found["debug"]}
        assert filled[job]["as with free memory"]


@pytest.mark.thorough
def test_workers_are_killed(tmp_path: Path) -> None:
    (found,) = found_by(tmp_path, "kills")
    assert found["holds"]
    assert sum(each["kills"] for name, each in found.items() if name.startswith("of ")) == 7


@pytest.mark.thorough
def test_memory_time_and_late_writes_are_measured(tmp_path: Path) -> None:
    memory, speed, late = found_by(tmp_path, "memory", "speed", "late")
    assert memory["partial_sums"] == 2
    assert set(speed["cnn"]["milliseconds"]) == {"unisono", "flags", "plain", "ddp"}
    assert [each["host"] for each in late["writes_after_death"]] == [0.0]


def test_a_part_that_fails_is_kept_with_its_error(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    assert not gpu_check.begun("nothing", out, True, limit())
    part = gpu_check.results(out)["parts"]["nothing"]
    assert part["ended"] == "failed, status 1"
    assert part["errors"][-1] == "KeyError: 'nothing'"
