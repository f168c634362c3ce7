"""What scripts do around their calls: one hash in the script and by workers, what the plain script gives, or refused.

The cases are in `cases/`; all of one file run in one process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from paths import PYTHONPATH
from waiting import limit

CASES = Path(__file__).parent / "cases"


@cache
def told(file: str, *arguments: str) -> dict[str, str]:
    """What each case of a file gives: a hash, or a refusal."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(CASES / "run.py"), *arguments, str(CASES / file)], capture_output=True,
        text=True, timeout=limit(), env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def is_hash(text: str) -> bool:
    return len(text) == 16


def test_what_a_script_changes_between_calls_is_seen_by_workers() -> None:
    alone = {name: text for name, text in told("changes.py", "0").items() if ":" not in name}
    assert all(map(is_hash, alone.values())), alone
    shared = told("changes.py", "2")
    assert {name: shared[name] for name in alone} == alone


REFUSED = {
    "a new attribute": "Net.count",
    "a list": "Net.held",
    "a list of features": "Net.held",
    "an average": "Net.average",
    "a tensor": "Net.held",
    "an object": "Net.held",
    "a class": "the variable Settings",
    "a generator": "Net.held",
    "NumPy's generator": "Net.held",
    "a global": "the variable SCALES",
    "a layer": "a module, parameter or buffer of Net",
    "a parameter": "parameters stay as they are in a parallel call",
    "max_norm": "parameters stay as they are in a parallel call",
    "an argument": "leaves its arguments as they are",
    "a dictionary": "leaves its arguments as they are",
    "an object given": "leaves its arguments as they are",
}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_a_call_leaves_behind_is_refused(workers: str) -> None:
    found = told("changes.py", workers)
    assert [name for name, text in REFUSED.items() if text not in found[f"refused: {name}"]] == []


@pytest.mark.few("0")
@pytest.mark.parametrize("workers", ["0", "2"])
def test_loops_give_one_hash_and_what_the_plain_ones_give(workers: str) -> None:
    alone = told("loops.py", "0")
    assert all(is_hash(text) for name, text in alone.items() if ":" not in name), alone
    assert told("loops.py", workers) == alone
    for name in ("vmap", "forward_ad", "functional_call"):
        assert "Put that into a function under @unisono.parallel" in alone[f"refused: {name}"]
    for name in ("a distribution", "a distribution of one sample"):
        assert "received a Normal with tensors inside" in alone[f"refused: {name}"]


@pytest.mark.thorough
@pytest.mark.parametrize("file", ["changes.py", "loops.py"])
def test_the_same_with_three_workers_that_die(file: str) -> None:
    alone, dying = ({n: t for n, t in told(file, *how).items() if ":" not in n} for how in (("0",), ("3", "deaths")))
    assert dying == alone
