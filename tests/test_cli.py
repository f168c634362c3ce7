"""The command as people use it: real processes, wrong input, Ctrl-C, kills."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import cpu_as_device
import jobs
import unisono
from paths import PYTHONPATH
from unisono import api
from unisono.checkpoint import store
from unisono.checkpoint.files import load
from unisono.checkpoint.parameters import sha256_of
from waiting import limit, until

TESTS = Path(__file__).parent
DATA = TESTS.parent.parent / "shared" / "data"

JOB = """
import os, signal, sys, threading
import torch, jobs
from unisono import Job
calls = []
def job(steps=4, fault="", microbatches=8):
    def loss(outputs, targets):
        if fault == "raise":
            raise RuntimeError("my own mistake")
        if fault == "nan":
            return outputs.mean() * float("nan")
        if fault == "vector":
            return outputs
        if fault == "exit":
            sys.exit(7)
        if fault == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "stuck":
            calls.append(1)
            if len(calls) > 8:
                threading.Event().wait()
        if fault == "print":
            print("hello from the loss")
        return torch.nn.functional.cross_entropy(outputs, targets)
    class Data(list):
        def __getitem__(self, index):
            if fault == "sample" and index == 17:
                raise KeyError("seventeen")
            if fault == "ragged" and index == 17:
                return torch.zeros(3), 1
            return torch.full((20,), float(index)), index % 5
    def metric(outputs, targets):
        if fault == "metric":
            raise ValueError("bad metric")
        return 1.0, 1.0
    def observer(record):
        if fault == "observer":
            raise ValueError("bad observer")
    model = jobs.Wild if fault == "single" else jobs.Mlp
    batch = 33 if fault == "single" else 32
    return jobs.make(model, loss=loss, steps=steps, data=lambda: Data(range(100)), metrics={"m": metric},
                     observers=[observer] if fault == "observer" else [], microbatches=microbatches, batch_size=batch)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_job.py"
    path.write_text(JOB)
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": PYTHONPATH, "COLUMNS": "200"}


def command(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unisono", *map(str, arguments)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=limit(),
    )  # fmt: skip


def test_train_writes_the_run_folder(file: Path, tmp_path: Path) -> None:
    done = command("train", file, "fault=print", "--workers", 2, "--out", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    manifest = json.loads((out / "run.json").read_text())
    assert manifest["exit"] == "completed"
    assert manifest["arguments"]["fault"] == "print"
    assert manifest["parameters_sha256"] == sha256_of(load(out / "parameters.safetensors"))
    assert manifest["world"] == {"workers": 2, "stages": 1, "steps": 4}
    numerics = manifest["fingerprint"]
    assert numerics["framework"].startswith(f"torch {torch.__version__}")
    assert numerics["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    expected = {"device": "cpu", "threads": "1", "precision": "float32", "optimizer": "SGD:fused"}
    assert expected.items() <= numerics.items()
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert {"loss", "epoch", "m", "learning_rate", "samples_per_second", "step_seconds"} <= set(records[0])
    for part in ("compute", "data", "wait", "update"):
        assert len(records[0][f"{part}_seconds"]) == 2
    assert list(out.glob("events.out.tfevents*"))
    assert "[worker 1] hello from the loss" in done.stdout
    assert "hello from the loss" in (out / "logs" / "worker-1.log").read_text()
    again = command("train", file, "--out", "out", folder=tmp_path)
    assert again.returncode == 2
    assert "already holds one" in again.stderr


@pytest.mark.few("raise-texts0", "nan-texts1", "segv-texts7")
@pytest.mark.parametrize(
    ("fault", "texts"),
    [
        ("raise", ["RuntimeError in the job's code (worker", "step 1, microbatch"]),
        ("nan", ["the loss must be finite", "step 1, microbatch"]),
        ("vector", ["one number", "(4, 5)"]),
        ("sample", ["KeyError", "sample 17"]),
        ("ragged", ["sample 17 does not fit"]),
        ("metric", ["ValueError", "step 1"]),
        ("single", ["BatchNorm needs at least two samples", "drop_last"]),
        ("segv", ["SIGSEGV, 3 times in a row at the same place (step 1, microbatch"]),
        ("exit", ["ended itself with status 7, 3 times in a row at the same place (step 1, microbatch"]),
    ],
)
def test_a_failed_job_says_what_and_where(file: Path, tmp_path: Path, fault: str, texts: list[str]) -> None:
    micro = 7 if fault == "single" else 8
    arguments = ("train", file, f"fault={fault}", f"microbatches={micro}", "--workers", 2, "--out", "out")
    done = command(*arguments, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    for text in texts:
        assert text in done.stderr
    assert "unisono/src" not in done.stderr
    assert "site-packages/unisono" not in done.stderr
    if fault in ("raise", "metric", "observer", "sample"):
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(("RuntimeError: my own", "ValueError: bad", "KeyError: 'seventeen'"))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["exit"] == "failed"
    assert list((tmp_path / "out" / "checkpoints").glob("step-*/state.json")), "the last good state"


@pytest.mark.few("arguments0-does not exist", "arguments6-dance")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "absent.py"], "does not exist"),
        (["train", "my_job.py", "--workers", "0"], "workers must be a whole number from 1 to 4096; received 0"),
        (["train", "my_job.py", "--steps", "1", "--epochs", "1"], "one length"),
        (["train", "my_job.py", "sleep=1"], "received 'sleep=1'"),
        (["verify", "my_job.py", "--workers", "1,x"], "1,2,4"),
        (["evaluate", "my_job.py", "nowhere"], "run.json"),
        (["dance"], "dance"),
    ],
)
def test_wrong_use_exits_2(file: Path, arguments: list[str], text: str) -> None:
    done = command(*arguments, folder=file.parent)
    assert done.returncode == 2, done.stderr
    assert text in done.stderr


def test_more_workers_than_microbatches_go_on_with_fewer(file: Path, tmp_path: Path) -> None:
    done = command("train", file, "microbatches=2", "--workers", 3, "--out", "out", folder=tmp_path)
    assert done.returncode == 0
    assert "Going on with 2" in done.stdout


@pytest.mark.few("2", "10")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_an_interrupt_saves_and_leaves_nothing(file: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = started(file, tmp_path)
    process.send_signal(number)
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 128 + number, output
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert manifest["exit"] == "interrupted"
    assert manifest["steps_done"] > 0
    assert (tmp_path / "out" / "parameters.safetensors").exists()


def test_who_outlives_a_terminal_is_deaf_to_its_end(file: Path, tmp_path: Path) -> None:
    process = started(file, tmp_path, before=("nohup",))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 143, output


@pytest.mark.few("15")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_before_anything_is_trained_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "slow.py").write_text("import threading\nprint('reads', flush=True)\nthreading.Event().wait()\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "unisono", "train", "slow.py"],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "reads\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 128 + number, output


def started(
    file: Path,
    folder: Path,
    *arguments: object,
    fault: str = "",
    start: tuple[str, ...] = ("-m", "unisono"),
    before: tuple[str, ...] = (),
) -> subprocess.Popen[str]:
    """A run that would go on for ever, and has begun to train."""
    process = subprocess.Popen(
        [*before, sys.executable, *start, "train", str(file),
         f"fault={fault}", f"steps={jobs.FOR_EVER}", "--workers", "2", "--out", "out", *map(str, arguments)],
        cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    metrics = folder / "out" / "metrics.jsonl"
    until(lambda: process.poll() is not None or (metrics.exists() and metrics.stat().st_size), "it trains")
    assert process.poll() is None, process.communicate()
    return process


PATIENT = """
from unisono.runtime import supervisor
supervisor.FINISH_SECONDS = float("inf")
from unisono.cli import main
main()
"""
"""The command, which never abandons a step by itself."""


def test_a_second_interrupt_ends_at_once(file: Path, tmp_path: Path) -> None:
    process = started(file, tmp_path, fault="stuck", start=("-c", PATIENT))
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while "stopping after the step at hand" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 130
    assert "ended at once, without saving the state; no checkpoint is on disk" in output
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (manifest["exit"], manifest["signal"]) == ("interrupted", signal.SIGINT)
    assert not (tmp_path / "out" / "control.sock").exists()
    assert not list((tmp_path / "out").rglob("*.tmp"))


ASKING = """
from unisono.cli import main
from unisono.runtime import supervisor

supervisor.CATCH_UP_SECONDS = 0.0
main()
"""
"""The command, which asks the process that holds the job for something in every turn."""


def test_an_interrupt_saves_also_where_the_process_that_holds_the_job_hangs(file: Path, tmp_path: Path) -> None:
    process = started(file, tmp_path, start=("-c", ASKING))
    holder_of(process).suspend()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 143, output
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (manifest["exit"], manifest["signal"]) == ("interrupted", signal.SIGTERM)
    assert store.steps(tmp_path / "out" / "checkpoints") == [manifest["steps_done"]]


def test_a_terminal_that_closes_says_so_more_than_once(file: Path, tmp_path: Path) -> None:
    process = started(file, tmp_path, fault="stuck")
    process.send_signal(signal.SIGHUP)
    assert process.stdout is not None
    while "stopping after the step at hand" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 129, output
    assert (tmp_path / "out" / "parameters.safetensors").exists()


def test_a_long_step_is_abandoned_when_interrupted(file: Path, tmp_path: Path) -> None:
    process = started(file, tmp_path, fault="stuck")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 143, output
    steps = json.loads((tmp_path / "out" / "run.json").read_text())["steps_done"]
    assert steps >= 1
    assert (tmp_path / "out" / "checkpoints" / f"step-{steps:08d}" / "state.json").exists()


def test_killed_supervisors_are_resumed_to_the_same_bits(file: Path, tmp_path: Path) -> None:
    random_ = random.Random(3)
    plain = command("train", file, "--steps", 30, "--debug", "--out", "plain", folder=tmp_path)
    arguments: list[object] = ["--out", "out"]
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "unisono", "train", str(file), "--steps", "30", "--checkpoint-every", "1",
             "--workers", "2", *map(str, arguments)],
            cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        checkpoints = tmp_path / "out" / "checkpoints"
        already, more = set(checkpoints.glob("step-*")), random_.choice((1, 2, 3))
        until(lambda process=process, already=already, more=more, there=checkpoints: (
            process.poll() is not None or len(set(there.glob("step-*")) - already) >= more
        ))  # fmt: skip
        process.kill()
        process.communicate()
        arguments = ["--resume", "out"]
    done = command("train", file, "--steps", 30, "--workers", 3, *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == plain.stdout.splitlines()[-1]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 31))


def test_resize_from_another_process(file: Path, tmp_path: Path) -> None:
    process = started(file, tmp_path)
    assert "out: 3 workers" in command("resize", "out", 3, folder=tmp_path).stdout
    refused = command("resize", "out", 9, folder=tmp_path)
    assert refused.returncode == 2
    assert "0 (pause) to 8 workers" in refused.stderr
    for line in (b"[" * 4000, b"\xff", b'{"resize": [[]]}', b'{"resize": 1e999}'):
        with socket.socket(socket.AF_UNIX) as end:
            end.connect(str(tmp_path / "out" / "control.sock"))
            end.sendall(line + b"\n")
            assert "error" in json.loads(end.makefile().readline())
    assert "paused" in command("resize", "out", 0, folder=tmp_path).stdout
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=limit())
    assert process.returncode == 130
    assert command("resize", "out", 2, folder=tmp_path).returncode == 2


def holder_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The process that holds the job of a run."""
    children = psutil.Process(process.pid).children()
    (holder,) = [child for child in children if os.getpgid(child.pid) == child.pid]
    return holder


def test_the_process_that_holds_the_job_is_replaced_too(file: Path, tmp_path: Path) -> None:
    process = started(file, tmp_path)
    parent = holder_of(process)
    parent.kill()
    metrics = tmp_path / "out" / "metrics.jsonl"
    before = metrics.stat().st_size
    until(lambda: process.poll() is not None or metrics.stat().st_size >= before + 5_000, "it trains again")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 130
    assert "another one takes over" in output
    steps = json.loads((tmp_path / "out" / "run.json").read_text())["steps_done"]
    again = command("train", file, "--steps", steps, "--debug", "--out", "again", folder=tmp_path)
    manifests = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("out", "again")]
    assert manifests[0]["parameters_sha256"] == manifests[1]["parameters_sha256"], again.stderr


UNSEEDED = """
import numpy as np
import jobs
drawn = np.random.default_rng().normal(size=(jobs.SAMPLES, jobs.FEATURES)).astype("float32")
def job(fault="", steps=1):
    return jobs.make(data=[(inputs, n % jobs.CLASSES) for n, inputs in enumerate(drawn)], steps=steps)
"""


def test_a_file_that_gives_other_data_when_it_is_run_again_ends_the_run_with_what_was_learnt(tmp_path: Path) -> None:
    (tmp_path / "unseeded.py").write_text(UNSEEDED)
    process = started(tmp_path / "unseeded.py", tmp_path)
    parent = holder_of(process)
    parent.kill()
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 1
    assert "must give the same data each time it is read" in output
    assert "np.random.default_rng(0)" in output
    assert (tmp_path / "out" / "parameters.safetensors").exists()


HELPED = """
import helper, jobs
{left_behind}
def job(fault="", steps=1):
    return jobs.make(steps=steps)
"""


@pytest.mark.few("forked")
@pytest.mark.parametrize("apart", [False, True], ids=["forked", "apart"])
def test_a_module_that_is_edited_while_a_run_needs_it_again_ends_the_run(tmp_path: Path, apart: bool) -> None:
    """Where each process runs the file for itself, who takes a worker's place reads it; else who holds the job does."""
    (tmp_path / "helper.py").write_text("WIDE = 1\n")
    (tmp_path / "helped.py").write_text(HELPED.format(left_behind="own = open(__file__)" if apart else ""))
    process = started(tmp_path / "helped.py", tmp_path)
    (tmp_path / "helper.py").write_text("WIDE = 2\n")
    (tmp_path / "helped.py").write_text("edited too, which changes nothing")
    workers = [child for child in psutil.Process(process.pid).children() if child.name() == "unisono-worker"]
    (workers[0] if apart else holder_of(process)).kill()
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 1
    assert "a job's code must stay as it is while it trains" in output
    assert "helper.py was " in output
    assert (tmp_path / "out" / "parameters.safetensors").exists()


def test_one_process_imports_the_framework(file: Path, tmp_path: Path) -> None:
    process = started(file, tmp_path)
    parent = holder_of(process)
    has_torch = ["libtorch" in Path(f"/proc/{number}/maps").read_text() for number in (process.pid, parent.pid)]
    assert has_torch == [False, True]
    process.send_signal(signal.SIGINT)
    process.communicate()


@pytest.mark.parametrize("orphaned", [False, True], ids=["at work", "while another takes over"])
def test_killing_the_supervisor_ends_its_children(file: Path, tmp_path: Path, orphaned: bool) -> None:
    process = started(file, tmp_path)
    if orphaned:
        gone = holder_of(process)
        gone.kill()
        until(lambda: len(psutil.Process(process.pid).children()) == 5 and not gone.is_running(), "another takes over")
    children = psutil.Process(process.pid).children(recursive=True)
    # the warm parent, two loaders, two workers; the next parent may just replace one of them
    assert len(children) == 5 or (orphaned and children)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=limit())
    assert not alive


def test_debug_gives_the_same_bits_and_reaches_the_terminal(file: Path, tmp_path: Path) -> None:
    one = command("train", file, "--workers", 2, "--out", "one", folder=tmp_path)
    two = command("train", file, "--debug", "--out", "two", folder=tmp_path)
    assert one.stdout.splitlines()[-1] == two.stdout.splitlines()[-1]
    assert one.stdout.splitlines()[-1].startswith("parameters ")


def test_verify_prints_one_hash(file: Path, tmp_path: Path) -> None:
    done = command("verify", file, "--steps", 2, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Same bits in every situation" in done.stdout
    rows = re.findall(r"^  (\S.*\S) +\d+\.\d\d +(\w{16})…", done.stdout, re.M)
    assert [name.rstrip() for name, _ in rows] == [
        "1 worker", "2 workers", "3 workers", "4 workers", "2 workers, one killed in steps 1 and 2",
        "2 workers to step 1, resumed by 3 workers", "--debug, OMP_NUM_THREADS=2",
    ]  # fmt: skip
    (whole,) = re.findall(r"^\w{64}$", done.stdout, re.M)
    assert {digest for _, digest in rows} == {whole[:16]}


NEWCOMER = """
import jobs
class Counting(jobs.Mlp):
    calls = 0
    def forward(self, inputs):
        Counting.calls += 1
        return super().forward(inputs) * Counting.calls
job = jobs.make(Counting)
"""


def test_verify_ends_with_1_where_bits_differ(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(NEWCOMER)
    done = command("verify", "job.py", "--steps", 2, "--workers", "1,2", folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "The results differ from that of 1 worker" in done.stdout


ANSWERS = """
import torch, jobs
from unisono import UsageError
def infer(model, text):
    if not text:
        raise UsageError("an input must be a number")
    output = model(torch.full((1, 20), float(text)))
    return f"{text} {model.training} {output.requires_grad} {output.sum():.4f}"
job = jobs.make(jobs.Wild, steps=4, evaluation=jobs.dataset, best=("min", "loss"), infer=infer)
"""


def test_predict_prints_an_answer_a_line(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(ANSWERS)
    assert command("train", "job.py", "--out", "run", "--workers", "2", folder=tmp_path).returncode == 0
    model = unisono.open(tmp_path / "run", jobs.make(jobs.Wild)).model().eval()
    expected = [f"{text} False False {model(torch.full((1, 20), float(text))).sum():.4f}" for text in ("0.5", "-2")]
    for at in ("final", "best"):
        done = command("predict", "--at", at, "job.py", "run", "--", "0.5", "-2", folder=tmp_path)
        assert (done.returncode, done.stdout.splitlines()) == (0, expected), done.stderr
    done = command("predict", "job.py", "run", "0.5", "much", folder=tmp_path)
    assert (done.returncode, done.stdout.splitlines()) == (1, expected[:1])
    assert "ValueError in job.infer, input 'much'" in done.stderr
    done = command("predict", "job.py", "run", "", folder=tmp_path)
    assert (done.returncode, done.stderr) == (2, "unisono: an input must be a number\n")
    answering = unisono.open(tmp_path / "run", jobs.make(jobs.Wild, infer=lambda model, given: given))
    for _ in answering.infer([1, 2]):
        assert not torch.is_inference_mode_enabled(), "the caller's code is not the model's"
    (tmp_path / "job.py").write_text("import jobs\njob = jobs.make(jobs.Wild, steps=4)\n")
    done = command("predict", "job.py", "run", "1", folder=tmp_path)
    assert (done.returncode, "Give it infer=" in done.stderr) == (2, True)


def test_evaluate_prints_what_the_run_recorded(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(ANSWERS)
    job = jobs.make(jobs.Wild, steps=4, evaluation=jobs.dataset)
    run = unisono.train(job, out=tmp_path / "run", debug=True)
    done = command("evaluate", "job.py", "run", folder=tmp_path)
    assert done.stdout == f"evaluation/loss {run.history[-1]['evaluation/loss']:.6g}\n", done.stderr


def test_start_stop_open_and_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []
    job = jobs.make(steps=10**6, observers=[seen.append], evaluation=jobs.dataset, metrics={"accuracy": jobs.accuracy})
    run = unisono.start(job, workers=2, out=tmp_path / "out")
    until(lambda: seen, "the first step is done")
    attached = unisono.open(tmp_path / "out", job)
    assert attached.status == "running"
    attached.stop()
    run.wait(limit())
    assert run.status == "interrupted"
    assert run.exit_status == 130
    assert run.history[0]["step"] == 1
    state = run.model("final").state_dict()
    saved = load_file(tmp_path / "out" / "parameters.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())
    values = unisono.evaluate(job, run.directory, workers=2)
    assert set(values) == {"evaluation/loss", "evaluation/accuracy"}
    monkeypatch.setattr(api, "request_of", cpu_as_device.request_of)
    assert unisono.evaluate(job, run.directory, workers=2, device="cuda") == values


FASHION = """
import gzip, numpy as np, torch, torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset
from unisono import Job
def read(folder, kind):
    images = gzip.decompress(open(f"{folder}/{kind}-images-idx3-ubyte.gz", "rb").read())
    labels = gzip.decompress(open(f"{folder}/{kind}-labels-idx1-ubyte.gz", "rb").read())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28).astype("float32")
    targets = np.frombuffer(labels, np.uint8, offset=8).astype("int64")
    return TensorDataset(torch.from_numpy((pixels - 77.29) / 68.79), torch.tensor(targets))
def net():
    convolutions = nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1568, 10))
def job(folder=""):
    return Job(model=net, loss=F.cross_entropy, optimizer=lambda m: torch.optim.AdamW(m.parameters(), lr=2e-3),
               data=lambda: read(folder, "train"), batch_size=128, epochs=1, evaluation=lambda: read(folder, "t10k"),
               metrics={"accuracy": lambda o, t: ((o.argmax(1) == t).sum(), len(t))})
"""


@pytest.mark.thorough
def test_fashion_mnist_in_one_epoch(tmp_path: Path) -> None:
    folder = DATA / "fashion_mnist"
    if not folder.exists():
        pytest.skip("Fashion-MNIST is not here")
    (tmp_path / "fashion.py").write_text(FASHION)
    done = command("train", "fashion.py", f"folder={folder}", "--out", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["evaluation/accuracy"] >= 0.85
    shown = command("evaluate", "fashion.py", "out", folder=tmp_path)
    assert f"evaluation/accuracy {last['evaluation/accuracy']:.6g}" in shown.stdout


def test_a_pipeline_from_the_command_line(file: Path, tmp_path: Path) -> None:
    one = command("train", file, "--workers", 1, "--out", "one", folder=tmp_path)
    assert one.returncode == 0, one.stderr
    arguments = ("--layout", "pipeline=2", "--recompute", "blocks", "--timeline", "--out", "two")
    two = command("train", file, *arguments, folder=tmp_path)
    assert two.returncode == 0, two.stderr
    manifests = [json.loads((tmp_path / out / "run.json").read_text()) for out in ("one", "two")]
    assert manifests[0]["parameters_sha256"] == manifests[1]["parameters_sha256"]
    assert manifests[1]["world"] == {"workers": 2, "stages": 2, "steps": 4}
    assert manifests[1]["settings"]["layout"] == "pipeline=2"
    events = json.loads((tmp_path / "two" / "timeline.json").read_text())
    passes = [(e["name"], e["tid"], e["args"]["microbatch"]) for e in events if e["name"] in ("forward", "backward")]
    assert len(passes) == len([event for event in events if event["ph"] == "X" and event["name"] != "update"])
    assert sorted(set(passes)) == sorted(
        (way, t, m) for way in ("backward", "forward") for t in (1, 2) for m in range(8)
    )
    assert not (tmp_path / "one" / "timeline.json").exists()


def test_verify_compares_layouts(file: Path, tmp_path: Path) -> None:
    layouts = ("data=1", "data=2", "pipeline=2", "data=2,pipeline=2")
    done = command("verify", file, "--layouts", *layouts, "--steps", 2, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Same bits in every situation" in done.stdout
    assert all(layout in done.stdout for layout in layouts)


def test_partition_shows_what_each_worker_gets(file: Path, tmp_path: Path) -> None:
    done = command("partition", file, "--workers", 2, "--pipeline", 2, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": yes") == 2


@pytest.mark.few(
    "arguments1-Ask for --workers 4, or a smaller layout.", "arguments5-Ask for --workers 2, or a smaller layout."
)
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("train", "--layout", "2"), "Write data=2,pipeline=2."),
        (("train", "--layout", "data=2,pipeline=2", "--workers", "2"), "Ask for --workers 4, or a smaller layout."),
        (("train", "--layout", "pipeline=9"), "at least as many microbatches as stages"),
        (("train", "--recompute", "all"), "'none', 'blocks'"),
        (("verify", "--layouts", "pipeline"), "Write data=2,pipeline=2."),
        (("partition", "--workers", "1", "--pipeline", "2"), "Ask for --workers 2, or a smaller layout."),
    ],
)
def test_a_layout_that_is_none(file: Path, tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    done = command(arguments[0], file, *arguments[1:], folder=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr.replace("\n", " ")
