"""The same start again: `--resume auto` goes on, begins, or says that the run is finished."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import jobs
import unisono
from paths import PYTHONPATH
from unisono.checkpoint import store
from unisono.errors import JobError, UsageError
from unisono.observe.metrics import locked
from waiting import limit, until


def await_disk(record: dict[str, Any]) -> None:
    """A checkpoint is left out while the one before is still being written."""
    until(lambda: "unisono-checkpoint" not in {thread.name for thread in threading.enumerate()}, "the disk")


def job(**changes: Any) -> unisono.Job:
    evaluation = jobs.dataset(10, 2)
    return jobs.make(**{"steps": 8, "batch_size": 25, "evaluation": evaluation, "observers": [await_disk], **changes})


def again(out: Path, given: unisono.Job | None = None, **settings: Any) -> unisono.Run:
    """The same start, whatever is in the folder."""
    return unisono.train(
        given or job(), out=out, resume="auto", checkpoint_every=3, **{"debug": True, "keep": 9, **settings}
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def events(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("events.out.tfevents.*")]


def steps(run: unisono.Run) -> list[int]:
    return [record["step"] for record in run.history if "loss" in record]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> unisono.Run:
    return unisono.train(job(), out=tmp_path_factory.mktemp("whole") / "run", debug=True)


def killed(out: Path, newest: int) -> Path:
    """A run whose supervisor was killed some steps after its newest checkpoint, or before the first one (0)."""
    again(out)
    for step in store.steps(out / "checkpoints"):
        if step > newest:
            store.remove(out / "checkpoints", step)
    (out / "parameters.safetensors").unlink()
    manifest = json.loads((out / "run.json").read_text())
    left = {**manifest, "exit": "running", "parameters_sha256": None, "process": None}
    (out / "run.json").write_text(json.dumps(left, indent=2) + "\n")
    return out


def test_it_begins_where_there_is_no_run_and_goes_on_where_there_is_one(
    whole: unisono.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    for name in ("logs", "lost+found", ".snapshot"):
        (empty / name).mkdir(parents=True)
    for out in (tmp_path / "absent", empty):
        assert again(out).parameters_sha256 == whole.parameters_sha256
    out = killed(tmp_path / "out", 6)
    (store.at(out / "checkpoints", 6) / "state.json").write_text("{}")
    capsys.readouterr()
    run = again(out, debug=False, workers=2)
    assert run.parameters_sha256 == whole.parameters_sha256
    assert steps(run) == list(range(1, 9))
    shown = capsys.readouterr().out
    assert "going on from step-00000003, the newest sound one" in shown
    assert "going on after step 3 of 8" in shown
    started = unisono.start(job(), out=killed(tmp_path / "third", 3), resume="auto", workers=1).wait()
    assert started.parameters_sha256 == whole.parameters_sha256


def test_a_finished_run_is_returned_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = again(tmp_path / "out", timeline=True)
    before = content(first.directory)
    capsys.readouterr()
    second = again(first.directory, timeline=True)
    assert (second.status, second.exit_status) == ("completed", 0)
    assert second.parameters_sha256 == first.parameters_sha256
    assert "finished: after step 8 nothing is left to do" in capsys.readouterr().out
    assert content(first.directory) == before


def test_a_run_that_patience_has_ended_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    impatient = job(evaluate_every=1, best=("max", "loss"), patience=2, steps=40)
    first = again(tmp_path / "out", impatient)
    assert first.manifest["reason"] == "patience"
    before = content(first.directory)
    assert again(first.directory, impatient, debug=False, workers=1).parameters_sha256 == first.parameters_sha256
    assert "finished: after step" in capsys.readouterr().out
    assert content(first.directory).keys() == before.keys()


def test_a_finished_run_goes_on_if_more_is_asked_for_and_no_less(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = again(tmp_path / "out").directory
    before = content(out)
    with pytest.raises(UsageError, match="it has done 8 steps, and the job asks for 7"):
        again(out, job(steps=7))
    assert content(out).items() >= before.items()
    run = again(out, job(steps=11))
    assert "the run had finished after step 8; the job asks for 11 steps now" in capsys.readouterr().out
    expected = unisono.train(job(steps=11), out=tmp_path / "11", debug=True)
    assert run.parameters_sha256 == expected.parameters_sha256
    assert steps(run) == list(range(1, 12))


@pytest.mark.parametrize("newest", [3, 8], ids=["unfinished", "finished"])
def test_another_job_is_refused_and_changes_nothing(tmp_path: Path, newest: int) -> None:
    out = killed(tmp_path / "out", 3) if newest == 3 else again(tmp_path / "out").directory
    before = content(out)
    with pytest.raises(UsageError, match=r"batch_size: 25 → 20.*another --out"):
        again(out, job(batch_size=20))
    with pytest.raises(UsageError, match=r"clip_norm: None → 1\.0.*--allow-change"):
        again(out, job(clip_norm=1.0))
    assert {**content(out), **before} == content(out)


def test_a_run_without_checkpoints_begins_anew_and_keeps_no_records_twice(
    whole: unisono.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = killed(tmp_path / "out", 0)
    (out / "logs" / "worker-0.log").write_text("why it died\n")
    (out / "hosts" / "b").mkdir(parents=True)
    (out / "notes.txt").write_text("mine\n")
    lines, begun = (out / "metrics.jsonl").read_text(), events(out)
    for number in (1, 2):
        run = again(out)
        assert f"it begins anew; its records are in {out}/abandoned-{number}" in capsys.readouterr().out
        assert run.parameters_sha256 == whole.parameters_sha256
        assert steps(run) == list(range(1, 9))
        assert len(events(out)) == 1
        assert "resumed" not in run.manifest
        killed_again = {**run.manifest, "exit": "failed"}
        (out / "run.json").write_text(json.dumps(killed_again))
        for step in store.steps(out / "checkpoints"):
            store.remove(out / "checkpoints", step)
    aside = out / "abandoned-1"
    assert (aside / "metrics.jsonl").read_text() == lines
    assert events(aside) == begun
    assert (aside / "logs" / "worker-0.log").read_text() == "why it died\n"
    assert {"run.json", "hosts"} <= {path.name for path in aside.iterdir()}
    assert (out / "abandoned-2" / "parameters.safetensors").exists()
    assert (out / "notes.txt").exists()


def test_what_is_no_run_is_left_alone(tmp_path: Path) -> None:
    out = again(tmp_path / "out").directory
    with pytest.raises(UsageError, match=r"already holds one\. Go on with that \(--resume auto\)"):
        unisono.train(job(), out=out, debug=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"holds no run\.json, and something else: \['thesis\.tex'\]\. Name another"):
        again(tmp_path / "mine")
    with pytest.raises(UsageError, match="must be writable"):
        again(tmp_path / "mine" / "thesis.tex")
    with pytest.raises(UsageError, match=r"received no out\. Give --out"):
        unisono.train(job(), resume="auto", debug=True)
    (store.at(out / "checkpoints", 3) / "state.json").unlink()
    (store.at(out / "checkpoints", 6) / "state.json").unlink()
    (store.at(out / "checkpoints", 8) / "state.json").unlink()
    before = content(out)
    with pytest.raises(JobError, match=r"resumed from a sound checkpoint; .* has none"):
        again(out)
    for step in store.steps(out / "checkpoints"):
        store.remove(out / "checkpoints", step)
    with pytest.raises(UsageError, match="a finished one whose checkpoints are gone"):
        again(out)
    assert content(out).items() <= before.items()


def test_a_run_that_lives_is_not_put_aside(tmp_path: Path) -> None:
    out = killed(tmp_path / "out", 0)
    lock = locked(out / "metrics.jsonl")
    assert lock is not None
    before = content(out)
    with pytest.raises(UsageError, match="one run at a time"):
        again(out)
    os.close(lock)
    assert content(out) == before


JOB = """
import torch, jobs
def job():
    return jobs.make(jobs.Wild, optimizer=jobs.adamw, batch_size=40, steps=30, order="sequential",
                     data=jobs.Held(30, 40, "held"))
"""


class Again:
    """The same command, as scripts and batch systems call it again and again, and what it has left.

    Args:
        folder: where it is called.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        (folder / "job.py").write_text(JOB)

    def start(self, *arguments: str, out: str = "out") -> subprocess.Popen[str]:
        """Call it, with more arguments."""
        command = [sys.executable, "-m", "unisono", "train", "job.py", "--workers", "2", "--stall-seconds", "1e6"]
        command += ["--out", out, "--resume", "auto", "--checkpoint-every", "4", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env={**os.environ, "PYTHONPATH": PYTHONPATH}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def ended(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Its exit status and what it has printed."""
        output, _ = process.communicate(timeout=limit())
        return process.returncode, output

    def hold(self, steps: int) -> None:
        """Let it do so many steps and no more."""
        (self.folder / "held").write_text(str(steps))

    def records(self, out: str = "out") -> list[dict[str, Any]]:
        """The records of results so far."""
        path = self.folder / out / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [{name: record[name] for name in ("step", "loss", "learning_rate")} for record in found]


@pytest.fixture
def command(tmp_path: Path) -> Again:
    return Again(tmp_path)


def test_the_command_line_says_the_whole_job(command: Again) -> None:
    (command.folder / "job.py").write_text(
        JOB.replace("job()", "job(clip=1.0)").replace("40,", "40, clip_norm=clip,", 1)
    )
    assert command.ended(command.start("clip=0.5", "--steps", "2", "--debug"))[0] == 0
    status, output = command.ended(command.start("--steps", "2", "--debug"))
    assert status == 2
    assert "clip_norm: 0.5 → 1.0" in output


def test_the_same_command_until_it_is_done(command: Again) -> None:
    """Killed before its first checkpoint, out of time, killed between a checkpoint and its last record, done, done."""
    undisturbed = command.ended(command.start(out="undisturbed"))[1]
    (expected,) = re.findall(r"parameters (\w{64})", undisturbed)
    one = ("--checkpoint-every", "12")  # of several a slow disk leaves some out
    for steps, checkpoint in ((2, None), (14, 12)):
        command.hold(steps)
        process = command.start(*one)
        until(lambda steps=steps: len(command.records()) == steps, "the records are there")
        if checkpoint:
            until(store.at(command.out / "checkpoints", checkpoint).exists, "the checkpoint is there")
        process.kill()
        command.ended(process)
        if not checkpoint:
            command.hold(7)
            status, output = command.ended(command.start("--max-time", "1s", *one))
            assert status == 128 + signal.SIGTERM, output
            assert "it begins anew; its records are in out/abandoned-1" in output
    (command.folder / "held").unlink()
    for text in ("going on after step 12 of 30", "finished: after step 30 nothing is left to do"):
        status, output = command.ended(command.start("--max-time", "1h"))
        assert (status, re.findall(r"parameters (\w{64})", output)) == (0, [expected]), output
        assert text in output
    assert command.records() == command.records("undisturbed")
