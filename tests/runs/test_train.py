"""Runs in their folders: checkpoints, resume, best and patience, resize, bad disks."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

import jobs
import unisono
from unisono import api
from unisono.checkpoint import store
from unisono.checkpoint.files import load
from unisono.checkpoint.parameters import sha256_of
from unisono.errors import JobError, UsageError
from unisono.runs import interrupts
from unisono.runs.jobfile import JobFile
from waiting import limit, until


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)


def warm(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 20)


def plateau(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)


def wild(**changes: Any) -> unisono.Job:
    fields: dict[str, Any] = {"steps": 20, "optimizer": adamw, "evaluation": jobs.dataset, "evaluate_every": 6}
    return jobs.make(jobs.Wild, **{**fields, **changes})


def workers() -> list[psutil.Process]:
    """The workers of this process's run."""
    return [child for child in psutil.Process().children(recursive=True) if child.name() == "unisono-worker"]


def steps_of(run: unisono.Run) -> int:
    return max((record["step"] for record in run.history), default=0)


def numbers(run: unisono.Run) -> list[dict[str, Any]]:
    """Records without times."""
    dropped = ("seconds", "samples_per_second", "slow_workers")
    return [{k: v for k, v in record.items() if not any(d in k for d in dropped)} for record in run.history]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> unisono.Run:
    """The undisturbed run, with a checkpoint every 5 steps."""
    out = tmp_path_factory.mktemp("whole") / "run"

    def await_disk(record: dict[str, Any]) -> None:
        """A checkpoint is left out while the one before is still being written."""
        until(lambda: "unisono-checkpoint" not in {thread.name for thread in threading.enumerate()}, "the disk")

    return unisono.train(wild(observers=[await_disk]), out=out, debug=True, checkpoint_every=5, keep=10)


def without_end(run: unisono.Run, tmp_path: Path, newest: int) -> Path:
    """A copy of a run as if its supervisor had been killed after a checkpoint."""
    folder = tmp_path / "copy"
    shutil.copytree(run.directory, folder)
    for step in store.steps(folder / "checkpoints"):
        if step > newest:
            shutil.rmtree(store.at(folder / "checkpoints", step))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**manifest, "exit": "running", "parameters_sha256": None}))
    return folder


def test_final_parameters_are_the_last_checkpoints_file(whole: unisono.Run) -> None:
    final = whole.directory / store.PARAMETERS
    assert final.samefile(store.at(whole.directory / "checkpoints", 20) / store.PARAMETERS)
    assert sha256_of(load(final)) == whole.parameters_sha256


@pytest.mark.parametrize(("newest", "workers", "debug"), [(5, 3, False), (15, 1, True)])
def test_a_resumed_run_has_the_bits_of_the_undisturbed_one(
    whole: unisono.Run, tmp_path: Path, newest: int, workers: int, debug: bool
) -> None:
    folder = without_end(whole, tmp_path, newest)
    run = unisono.train(wild(), resume=folder, workers=workers, debug=debug)
    assert run.parameters_sha256 == whole.parameters_sha256
    assert numbers(run) == numbers(whole)
    for name in ("parameters.safetensors", "optimizer.safetensors"):
        last = [store.at(folder / "checkpoints", 20) / name, store.at(whole.directory / "checkpoints", 20) / name]
        assert last[0].read_bytes() == last[1].read_bytes()
    assert run.manifest["resumed"][0]["step"] == newest
    kept = [f"step-{step:08d}" for step in (newest, 20)]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == kept


def test_a_complete_run_resumed_stays_as_it_is_and_may_be_made_longer(whole: unisono.Run, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole.directory, folder)
    again = unisono.train(wild(), resume=folder, debug=True)
    assert again.parameters_sha256 == whole.parameters_sha256
    with pytest.raises(UsageError, match="has done 20 steps"):
        unisono.train(wild(steps=19), resume=folder, debug=True)
    longer = unisono.train(wild(steps=24), resume=folder, debug=True)
    assert longer.parameters_sha256 == unisono.train(wild(steps=24), out=tmp_path / "24", debug=True).parameters_sha256


def test_plateau_schedules_and_intermediate_saves_resume(tmp_path: Path) -> None:
    job = wild(schedule=plateau, evaluate_every=2)
    one = unisono.train(job, out=tmp_path / "one", debug=True, checkpoint_every=9, keep=10)
    two = unisono.train(job, resume=without_end(one, tmp_path, 9), debug=True)
    assert numbers(two) == numbers(one)


def damage(path: Path, how: str) -> Path:
    victim = path / ("state.json" if how == "foreign" else "optimizer.safetensors")
    if how == "truncated":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif how == "flipped":
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    elif how == "missing":
        victim.unlink()
    else:
        victim.write_text('{"epoch": 3}')
    return victim


@pytest.mark.parametrize("how", ["truncated", "flipped", "missing", "foreign"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_used(
    whole: unisono.Run, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = without_end(whole, tmp_path, 15)
    victim = damage(store.at(folder / "checkpoints", 15), how)
    run = unisono.train(wild(), resume=folder, debug=True)
    shown = capsys.readouterr().out
    assert run.parameters_sha256 == whole.parameters_sha256
    assert (victim.name in shown or how == "foreign") and "step-00000015" in shown  # noqa: PT018
    assert "going on from step-00000010" in shown


@pytest.mark.parametrize(("change", "text"), [
    (lambda path: path.unlink(), "missing"),
    (lambda path: os.truncate(path, 0), None),
    (lambda path: path.write_bytes(b"[" * 10**5 + b"\n\xff\n[1]\n" + b'{"step": "2"}\n'), "4 lines hold no record"),
    (lambda path: replaced(path).mkdir(), "is called metrics.jsonl.1 now"),
    (lambda path: os.mkfifo(replaced(path)), "is called metrics.jsonl.1 now"),
    (lambda path: replaced(path).symlink_to("nowhere/there"), "is called metrics.jsonl.1 now"),
])  # fmt: skip
def test_records_are_not_needed_to_go_on(
    whole: unisono.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, text: str | None
) -> None:
    folder = without_end(whole, tmp_path, 15)
    change(folder / "metrics.jsonl")
    run = unisono.train(wild(), resume=folder, debug=True)
    assert run.parameters_sha256 == whole.parameters_sha256
    assert [record["step"] for record in run.history if "loss" in record] == [16, 17, 18, 19, 20]
    shown = capsys.readouterr().out
    assert text is None or f"{text}" in shown
    assert (text is not None) == ("earlier records" in shown or "these records" in shown)


def replaced(path: Path) -> Path:
    path.unlink()
    return path


def test_without_a_sound_checkpoint_nothing_is_changed(whole: unisono.Run, tmp_path: Path) -> None:
    folder = without_end(whole, tmp_path, 5)
    damage(store.at(folder / "checkpoints", 5), "flipped")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(JobError, match="has none"):
        unisono.train(wild(), resume=folder)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"run\.json"):
        unisono.train(wild(), resume=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="own folder"):
        unisono.train(wild(), resume=folder, out=tmp_path / "x")


def test_a_changed_job_is_refused_unless_the_change_is_accepted(whole: unisono.Run, tmp_path: Path) -> None:
    folder = without_end(whole, tmp_path, 10)
    with pytest.raises(UsageError, match=r"microbatches: 8 → 4.*--allow-change"):
        unisono.train(wild(microbatches=4), resume=folder, debug=True)
    with pytest.raises(UsageError, match=r"microbatches: 8 → 2 \(.*\)\. Change it back \(microbatches=8\)"):
        unisono.train(wild(microbatches=None), resume=folder, debug=True)
    with pytest.raises(UsageError, match="batch_size: 32 → 16"):
        unisono.train(wild(batch_size=16), resume=folder, debug=True, allow_change=True)
    with pytest.raises(UsageError, match=r"optimizers: \["):
        unisono.train(wild(optimizer=jobs.sgd), resume=folder, debug=True)
    run = unisono.train(wild(microbatches=4, clip_norm=1.0), resume=folder, debug=True, allow_change=True)
    assert run.manifest["resumed"][-1]["changes"] == {"microbatches": [8, 4], "clip_norm": [None, 1.0]}
    assert run.manifest["resumed"][-1]["step"] == 10
    assert run.parameters_sha256 != whole.parameters_sha256


@pytest.mark.parametrize(
    ("batch_size", "microbatches", "told"),
    [(40, None, "40 samples is 2 microbatches of 20"), (64, None, "64 samples is 4 microbatches of 16"),
     (26, 7, "26 samples is 7 microbatches of at most 4")],
)  # fmt: skip
def test_a_run_tells_and_keeps_how_a_batch_is_cut(
    batch_size: int, microbatches: int | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = jobs.make(batch_size=batch_size, microbatches=microbatches, steps=1)
    run = unisono.train(job, out=tmp_path / "run", debug=True)
    assert run.manifest["job"]["microbatches"] == job.microbatches
    assert f"a batch of {told}: part of the result" in capsys.readouterr().out.splitlines()


def test_other_numerics_are_told(whole: unisono.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = unisono.train(wild(), resume=without_end(whole, tmp_path, 15), debug=True, threads=2)
    assert run.manifest["resumed"][-1]["numerics"] == {"threads": ["1", "2"]}
    assert "bits may differ from here (threads: 1 → 2)" in capsys.readouterr().out


@pytest.mark.parametrize("debug", [True, False])
def test_other_code_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], debug: bool) -> None:
    file, beside, out = tmp_path / f"edited{debug}.py", tmp_path / f"beside{debug}.py", tmp_path / "run"
    file.write_text(f"import beside{debug}, jobs\n\ndef job(steps=2):\n    return jobs.make(steps=steps)\n")
    beside.write_text("A = 1\n")
    first = api.train(JobFile.of(str(file)), out=out, debug=debug, workers=1).manifest["digest"]["code"]
    assert {file.name, beside.name, "jobs.py"} <= first.keys()
    api.train(JobFile.of(str(file), ["steps=3"]), resume=out, debug=debug, workers=1)
    assert "other code" not in capsys.readouterr().out
    file.write_text(file.read_text() + "# a word more\n")
    run = api.train(JobFile.of(str(file), ["steps=4"]), resume=out, debug=debug, workers=1)
    ((name, (before, now)),) = run.manifest["resumed"][-1]["code"].items()
    assert (name, before) == (file.name, first[file.name]) != (name, now)
    shown = capsys.readouterr().out
    assert "resuming with other code than the checkpoint's" in shown
    assert f"({file.name}: {before} → {now})" in shown


def test_best_and_patience(tmp_path: Path) -> None:
    job = wild(evaluate_every=1, best=("min", "loss"), patience=3, steps=400, optimizer=jobs.sgd, data=jobs.dataset,
               evaluation=lambda: jobs.dataset(50, 9))  # fmt: skip
    one = unisono.train(job, out=tmp_path / "one", debug=True, keep=1)
    two = unisono.train(job, out=tmp_path / "two", workers=2, keep=1)
    assert one.manifest["reason"] == two.manifest["reason"] == "patience"
    assert one.parameters_sha256 == two.parameters_sha256
    losses = {r["step"]: r["evaluation/loss"] for r in two.history if "loss" not in r}
    best = min(losses, key=lambda step: losses[step])
    assert two.manifest["best"] == {"name": "loss", "value": losses[best], "step": best}
    assert two.manifest["steps_done"] == best + 3
    assert store.steps(two.directory / "checkpoints") == [best, best + 3]
    at_best = load_file(store.at(two.directory / "checkpoints", best) / "parameters.safetensors")
    assert all(torch.equal(tensor, at_best[name]) for name, tensor in two.model("best").state_dict().items())
    assert unisono.evaluate(job, two.directory, at="best")["evaluation/loss"] == losses[best]
    assert unisono.evaluate(job, two.directory, at=best + 3)["evaluation/loss"] == losses[best + 3]
    assert unisono.train(job, resume=two.directory, debug=True).manifest["steps_done"] == best + 3
    with pytest.raises(UsageError, match="there are"):
        two.model(1)


class Loud(jobs.Mlp):
    def __init__(self) -> None:
        super().__init__()
        print("x" * 300_000)  # more than a pipe holds


def test_a_job_may_print_a_lot_while_it_is_made(tmp_path: Path) -> None:
    run = unisono.train(jobs.make(Loud, steps=2), out=tmp_path / "run", workers=1)
    assert "x" * 300_000 in (run.directory / "logs" / "host.log").read_text()
    assert 0 < run.manifest["first_step_seconds"] <= run.manifest["seconds"]


class Slow(jobs.Mlp):
    """A step takes long enough to be asked something."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        sum(range(50_000))
        return super().forward(inputs)


def test_resize_pause_and_stop_change_no_bit(tmp_path: Path) -> None:
    job = jobs.make(Slow, steps=jobs.FOR_EVER)
    run = unisono.start(job, workers=1, out=tmp_path / "run", checkpoint_every=10)
    until(lambda: steps_of(run) >= 5, "the first steps")
    assert (run.directory / "control.sock").stat().st_mode & 0o777 == 0o600
    assert run.resize(3) == 3
    with pytest.raises(UsageError, match=r"0 \(pause\) to 8 workers"):
        run.resize(9)
    until(lambda: len(run.history[-1].get("compute_seconds", [])) == 3, "three workers")
    assert run.resize(2) == 2
    until(lambda: len(run.history[-1].get("compute_seconds", [])) == 2, "two workers")
    assert run.resize(0) == 0
    until(lambda: not workers(), "all workers have gone")
    steps = steps_of(run)
    assert run.status == "running"
    run.resize(2)
    until(lambda: steps_of(run) > steps, "it goes on")
    run.stop()
    run.wait(limit())
    assert run.status == "interrupted"
    assert run.manifest["reason"] == "stop"
    assert not (run.directory / "control.sock").exists()
    with pytest.raises(UsageError, match="does not answer"):
        run.resize(1)
    more = jobs.make(Slow, steps=run.manifest["steps_done"] + 5)
    expected = unisono.train(more, out=tmp_path / "plain", debug=True)
    assert unisono.train(more, resume=run.directory, workers=2).parameters_sha256 == expected.parameters_sha256


def test_a_paused_run_whose_parent_has_died_goes_on_when_it_is_asked_to(tmp_path: Path) -> None:
    others = set(psutil.Process().children())
    run = unisono.start(jobs.make(Slow, steps=jobs.FOR_EVER), workers=1, out=tmp_path / "run")
    until(lambda: steps_of(run) >= 2, "the first steps")
    run.resize(0)
    until(lambda: not workers(), "all workers have gone")
    steps = steps_of(run)
    (parent,) = [child for child in set(psutil.Process().children()) - others if os.getpgid(child.pid) == child.pid]
    parent.kill()

    def granted() -> bool:
        with suppress(UsageError):
            return run.resize(2) == 2
        return False

    until(granted, "it has another parent")
    until(lambda: steps_of(run) > steps, "it goes on")
    run.stop()
    run.wait(limit())
    assert run.status == "interrupted"


def test_a_pipeline_is_resized_and_goes_on_in_another_layout(tmp_path: Path) -> None:
    job = jobs.make(jobs.Deep, optimizer=adamw, steps=jobs.FOR_EVER, clip_norm=0.5)
    run = unisono.start(job, workers=2, layout="pipeline=2", out=tmp_path / "run", checkpoint_every=10)
    until(lambda: steps_of(run) >= 5, "the first steps")
    with pytest.raises(UsageError, match="and at least 2, one a stage; received 1"):
        run.resize(1)
    for workers in (3, 4, 2):  # a worker that fills no pipe only updates its slice
        assert run.resize(workers) == workers
        until(lambda n=workers: len(run.history[-1].get("compute_seconds", [])) == n, f"{workers} workers")
    run.stop()
    run.wait(limit())
    assert run.status == "interrupted"
    more = replace(job, steps=run.manifest["steps_done"] + 5)
    expected = unisono.train(more, out=tmp_path / "plain", debug=True)
    again = unisono.train(more, resume=run.directory, layout="pipeline=3")
    assert again.parameters_sha256 == expected.parameters_sha256


def test_time_runs_out_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[Any] = []  # time is over as soon as there is one
    clock = SimpleNamespace(monotonic=lambda: math.inf if records else 0.0)
    monkeypatch.setattr(interrupts, "time", clock)
    job = jobs.make(Slow, steps=jobs.FOR_EVER, observers=[records.append])
    run = unisono.train(job, workers=2, out=tmp_path / "run", max_time="1h")
    assert run.exit_status == 143
    assert run.manifest["reason"] == "max-time"
    assert store.steps(run.directory / "checkpoints") == [run.manifest["steps_done"]]


def test_checkpoints_by_the_clock(tmp_path: Path) -> None:
    run = unisono.start(jobs.make(Slow, steps=jobs.FOR_EVER), workers=2, out=tmp_path / "run", checkpoint_every="1s")
    until(lambda: len(store.steps(run.directory / "checkpoints")) >= 2, "two checkpoints")
    run.stop()
    run.wait(limit())
    first, _ = store.steps(run.directory / "checkpoints")
    store.read(store.at(run.directory / "checkpoints", first))


def test_a_bad_disk_is_reported_and_training_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = jobs.make(steps=12)

    def spoil(record: dict[str, Any]) -> None:
        if record["step"] == 1:
            (tmp_path / "run" / "checkpoints").write_text("not a folder")

    spoilt = jobs.make(steps=12, observers=[spoil])
    with pytest.raises(JobError, match="could not be saved"):
        unisono.train(spoilt, out=tmp_path / "run", workers=2, checkpoint_every=5)
    assert "the checkpoint of step 5 could not be written" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    plain = unisono.train(job, out=tmp_path / "plain", debug=True)
    assert manifest["steps_done"] == 12
    assert manifest["parameters_sha256"] == plain.parameters_sha256
