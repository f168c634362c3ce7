"""Saved parameters are believed once their hash is the one that the run has kept; else file and way out are named."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import jobs
import unisono
from paths import PYTHONPATH
from unisono.checkpoint import store
from unisono.checkpoint.files import load
from unisono.checkpoint.parameters import sha256_of
from unisono.errors import UsageError
from unisono.machine.processes import birth
from unisono.observe.run_folder import read_run
from unisono.runs.saved import parameters_file
from waiting import limit

FLIPS = 100


def job(**changes: Any) -> unisono.Job:
    return jobs.make(jobs.Wild, steps=4, evaluation=jobs.dataset, best=("min", "loss"), **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> unisono.Run:
    """One with checkpoints of the steps 2 and 4."""
    return unisono.train(job(), out=tmp_path_factory.mktemp("saved") / "run", debug=True, checkpoint_every=2, keep=9)


@pytest.fixture
def folder(run: unisono.Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.directory, tmp_path / "run"))


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def tell(folder: Path, **fields: Any) -> None:
    """Change run.json."""
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**manifest, **fields}))


@pytest.mark.parametrize("which", ["final", 4])
def test_no_flipped_bit_is_believed(run: unisono.Run, folder: Path, which: str | int) -> None:
    path = parameters_file(folder, which)
    sound, draw = path.read_bytes(), random.Random(7)
    for _ in range(FLIPS):
        flip(path, draw.randrange(8 * len(sound)))
        with suppress(UsageError):
            assert sha256_of(load(parameters_file(folder, which))) == run.parameters_sha256, "a blank of the header"
        path.write_bytes(sound)
    flip(path, 8 * 5000)
    with pytest.raises(UsageError, match=r"parameters\.safetensors.* Name a checkpoint: --at \d is sound"):
        parameters_file(folder, which)


def command(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unisono", *map(str, arguments)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH}, timeout=limit(),
    )  # fmt: skip


def test_predict_refuses_what_has_changed(folder: Path) -> None:
    flip(folder / store.PARAMETERS, 8 * 5000)
    (folder.parent / "job.py").write_text(
        "import jobs\njob = jobs.make(jobs.Wild, steps=4, infer=lambda model, given: given)\n"
    )
    done = command("predict", "job.py", "run", "1", folder=folder.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert "run/parameters.safetensors has the SHA-256" in done.stderr
    assert "Name a checkpoint: --at 4 is sound." in done.stderr
    assert "Traceback" not in done.stderr
    assert command("predict", "job.py", "run", "1", "--at", "4", folder=folder.parent).stdout == "1\n"


def test_model_and_evaluate_of_a_library_refuse_it_too(folder: Path) -> None:
    path = store.at(folder / "checkpoints", 2) / store.PARAMETERS
    flip(path, 8 * 5000)
    attached = unisono.open(folder, job())
    for use in (lambda: attached.model(2), lambda: unisono.evaluate(job(), folder, at=2)):
        with pytest.raises(UsageError, match=rf"{path}: its size or SHA-256 is not .*--at 4 is sound"):
            use()
    assert attached.model() is not None


def other_kinds(path: Path) -> list[Callable[[], object]]:
    """What may stand where a file was."""
    return [lambda: os.mkfifo(path), path.mkdir, lambda: path.symlink_to("nowhere"), lambda: path.write_bytes(b""),
            lambda: path.write_bytes(b"\xff" * 64), lambda: path.write_bytes((10**9).to_bytes(8, "little") + b"{}"),
            lambda: path.write_bytes(b"[" * 10**5), lambda: path.symlink_to("/dev/zero")]  # fmt: skip


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("name", ["parameters.safetensors", "run.json", "checkpoints/step-00000004/state.json"])
def test_whatever_stands_where_a_file_was_is_named(folder: Path, name: str, number: int) -> None:
    path = folder / name
    path.unlink()
    other_kinds(path)[number]()
    which = 4 if "checkpoints" in name else "final"
    with pytest.raises(UsageError, match=path.name) as raised:
        parameters_file(folder, which)
    if name != "run.json":
        assert f"--at {2 if which == 4 else 4} is sound" in str(raised.value)
    assert raised.value.exit_status == 2


def test_a_run_without_final_parameters_says_so_and_names_a_checkpoint(folder: Path) -> None:
    tell(folder, parameters_sha256=None, exit="running", process=None)
    flip(store.at(folder / "checkpoints", 4) / store.PARAMETERS, 8 * 5000)
    with pytest.raises(
        UsageError, match=r"once it has ended; .*\(failed\) has none\. Name a checkpoint: --at 2 is sound"
    ):
        parameters_file(folder, "final")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UsageError, match=r"has none\. Name another run, or train again\."):
        parameters_file(folder, "final")


def test_a_run_that_went_on_after_its_end_has_no_final_parameters(run: unisono.Run, folder: Path) -> None:
    tell(folder, steps_done=2, parameters_sha256=sha256_of(load(parameters_file(folder, 2))), exit="running")
    shutil.copyfile(parameters_file(folder, 2), folder / store.PARAMETERS)
    with pytest.raises(UsageError, match=r"has gone on after step 2, where it had\. Name a checkpoint: --at 4"):
        parameters_file(folder, "final")
    flip(store.at(folder / "checkpoints", 4) / store.PARAMETERS, 8 * 5000)
    assert parameters_file(folder, "final") == folder / store.PARAMETERS, "what is damaged is not where it went on"


@pytest.mark.parametrize("which", ["²", "٢", "1" * 400, "-1", "2.0", "other", "step-00000002\x1b[2J"])
def test_what_names_no_parameters(folder: Path, which: str) -> None:
    with pytest.raises(UsageError, match=r"named 'final', 'best' or by a step"):
        parameters_file(folder, which)


class Wider(jobs.Wild):
    """The names of the model that was trained, and another shape."""

    def __init__(self) -> None:
        super().__init__()
        name, _ = next(self.named_parameters())
        module = self.get_submodule(name.rpartition(".")[0])
        setattr(module, name.rpartition(".")[2], jobs.nn.Parameter(jobs.torch.zeros(99)))


@pytest.mark.parametrize("model", [lambda: jobs.nn.Linear(20, 5), Wider])
def test_a_job_of_another_model_is_named(folder: Path, model: Any) -> None:
    with pytest.raises(UsageError, match=r"saved parameters must fit the job's model; '\S+' is \["):
        unisono.open(folder, jobs.make(model)).model()


# -- who runs it -------------------------------------------------------------------------------------------


def test_a_dead_run_is_not_running_whoever_has_its_number(folder: Path) -> None:
    attached = unisono.open(folder, job())
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # its entry is left
    own = birth(os.getpid())
    assert own is not None
    boot, tick = own.split()
    for process, born in ((os.getpid(), f"{boot} {int(tick) - 1}"), (os.getpid(), f"another-boot {tick}"),
                          (os.getpid(), None), (2**62, None), (-1, own), (None, None), (ended.pid, own),
                          (ended.pid, None)):  # fmt: skip
        tell(folder, exit="running", process=process, process_birth=born)
        assert attached.status == "failed", (process, born)
        assert attached.wait() is attached
        assert attached.exit_status == 1
    ended.wait()
    tell(folder, exit="running", process=os.getpid(), process_birth=own)
    assert attached.status == "running"


@pytest.mark.parametrize(("fields", "exit_status"), [
    ({"exit": "interrupted", "signal": 10**9}, 130), ({"exit": "interrupted", "signal": -1}, 130),
    ({"exit": "interrupted", "signal": 15}, 143), ({"exit": None}, 1),
])  # fmt: skip
def test_how_a_run_ended_is_told_whatever_stands_there(folder: Path, fields: Any, exit_status: int) -> None:
    tell(folder, **fields)
    assert unisono.open(folder, job()).exit_status == exit_status


@pytest.mark.parametrize("fields", [
    {"exit": 3}, {"process": "1"}, {"arguments": [1]}, {"best": {"step": "2"}}, {"best": 3}, {"resumed": {}},
    {"parameters_sha256": []}, {"steps_done": True}, {"signal": 2**70}, {"seconds": "1"},
])  # fmt: skip
def test_a_field_of_another_kind_is_named(folder: Path, fields: dict[str, Any]) -> None:
    tell(folder, **fields)
    with pytest.raises(UsageError, match=rf"a run folder holds run\.json.*'{next(iter(fields))}.*must be"):
        read_run(folder)
