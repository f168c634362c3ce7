"""Scripts of six kinds (`kinds/`): one line changes no result, and who computes, dies or resumes changes no bit."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import random
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils._pytree import tree_leaves

from paths import PYTHONPATH
from unisono.scripts.pytorch.one_rank.ddp import OneRankDistributedDataParallel
from waiting import limit, until

KINDS = Path(__file__).parent / "kinds"
ALL = sorted(each.stem for each in KINDS.glob("*.py"))
STILL = [kind for kind in ALL if kind != "classify"]
"""Neither batch statistics nor dropout: what microbatches compute is what the batch gives."""


@pytest.fixture(autouse=True)
def needed(request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params.get("kind") if hasattr(request.node, "callspec") else None
    if kind == "fine_tune" and importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")


def begun(kind: str, file: Path, workers: int, *arguments: object) -> subprocess.Popen[str]:
    """A script, started as a person starts it; it prints into a file beside its results."""
    command = [sys.executable, "-m", "unisono", "run", str(KINDS / f"{kind}.py"), "--workers", str(workers), "--"]
    with file.with_suffix(".txt").open("w") as output:
        return subprocess.Popen(
            [*command, str(file), *map(str, arguments)], stdout=output, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
        )  # fmt: skip


def ended(script: subprocess.Popen[str], file: Path) -> str:
    """A hash of all that a script leaves, once it has ended well."""
    script.wait(limit())
    assert script.returncode == 0, file.with_suffix(".txt").read_text()
    found = hashlib.sha256()
    for leaf in tree_leaves(torch.load(file)):
        found.update(leaf.numpy().tobytes() if isinstance(leaf, torch.Tensor) else repr(leaf).encode())
    return found.hexdigest()


def hash_of(kind: str, folder: Path, workers: int) -> str:
    file = folder / f"{workers}.pt"
    return ended(begun(kind, file, workers), file)


@pytest.mark.parametrize("kind", STILL)
@pytest.mark.filterwarnings("default")  # libraries'
def test_the_line_gives_what_the_plain_script_gives(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISONO_WORKERS", "0")
    text = (KINDS / f"{kind}.py").read_text()
    plain = tmp_path / f"{kind}.py"
    plain.write_text(text.replace("unisono.parallel(", "("))

    def left(script: Path) -> Any:
        file = tmp_path / f"{script.parent.name}.pt"
        monkeypatch.setattr(sys, "argv", [str(script), str(file)])
        runpy.run_path(str(script), run_name="__main__")
        return {name: value for name, value in torch.load(file).items() if name != "default"}  # a call draws once

    expected = left(plain)
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", OneRankDistributedDataParallel)
    torch.testing.assert_close(left(KINDS / f"{kind}.py"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ALL)
def test_one_hash_in_the_script_and_by_workers(kind: str, tmp_path: Path) -> None:
    assert hash_of(kind, tmp_path, 2) == hash_of(kind, tmp_path, 0)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ALL)
def test_one_hash_while_processes_are_killed_at_random(kind: str, seed: int, tmp_path: Path) -> None:
    file = tmp_path / "killed.pt"
    script = begun(kind, file, 3)
    killed = kill_at_random(script, file.with_suffix(".txt"), random.Random(f"{kind} {seed}"))
    assert ended(script, file) == hash_of(kind, tmp_path, 0)
    assert killed, "it has ended too soon"


def kill_at_random(script: subprocess.Popen[str], output: Path, draws: random.Random) -> int:
    """Kill one or two processes of a script at a random moment of each of its steps: what is killed three times at the
    same work is given up."""
    own, step, killed = psutil.Process(script.pid), -1, 0
    while script.poll() is None:
        moment = used(own) + draws.random() / 10
        until(lambda: script.poll() is not None or used(own) >= moment, "the script has gone on")  # noqa: B023
        now = len(output.read_text().splitlines())
        theirs = [each for each in children(own) if "unisono.scripts" in " ".join(command(each))]
        if now > step and len(theirs) > 1:
            for each in draws.sample(theirs, draws.choice([1, 2])):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
                    killed += 1
            step = now
    return killed


def used(process: psutil.Process) -> float:
    """CPU seconds."""
    try:
        return process.cpu_times().user
    except psutil.NoSuchProcess:
        return 0.0


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.thorough
def test_a_script_goes_on_from_its_own_checkpoint_on_other_workers(tmp_path: Path) -> None:
    file = tmp_path / "resumed.pt"
    for workers, until_step in ((2, 4), (0, 7), (3, 10)):
        found = ended(begun("language", file, workers, until_step), file)
    assert found == hash_of("language", tmp_path, 0)
