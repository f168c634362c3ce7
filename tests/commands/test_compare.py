"""`unisono compare`: two small PyTorch jobs in real processes, a failing one, wrong use; and the table's parts."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console

import jobs
from paths import PYTHONPATH
from unisono.commands.compare import Comparison, code_lines, contenders, turns
from unisono.commands.compared_run import Measurement
from unisono.errors import UsageError
from waiting import limit, until

TESTS = Path(__file__).parent
JOB = "import jobs\njob = jobs.make(steps=4, batch_size={batch})\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one.py").write_text(JOB.format(batch=32))
    (tmp_path / "two.py").write_text(JOB.format(batch=16))
    (tmp_path / "bad.py").write_text("raise ValueError('my own mistake')\n")
    return tmp_path


def compare(*arguments: object, folder: Path) -> subprocess.Popen[str]:
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "COLUMNS": "120", "TMPDIR": str(temporary)}
    return subprocess.Popen(
        [sys.executable, "-m", "unisono", "compare", *map(str, arguments)],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_jobs_and_one_that_fails(folder: Path) -> None:
    arguments = ("one.py", "bad.py", "two.py", "--workers", 2, "--steps", 6, "--rounds", 1)
    process = compare(*arguments, folder=folder)
    output, errors = process.communicate(timeout=limit())
    assert process.returncode == 1, errors
    rows = [line.split() for line in output.splitlines() if line.strip()]
    assert rows[0] == ["job", "workers", "ms/step", "samples/s", "MiB", "start", "loss", "lines"]
    measured = [row for row in rows if row[-1] == "2" and len(row) >= 7]
    assert [row[-7] for row in measured] == ["2", "2"]
    assert all(float(value) > 0 for row in measured for value in row[-7:])
    assert "2 workers: " in output
    assert "batch and its microbatches differ" in output
    assert "bad failed at 2 workers:" in output
    assert output.rstrip().endswith("ValueError: my own mistake")
    assert errors.count("bad failed") == 1
    assert "round 1 of 1: two, 2 workers: " in errors
    assert not list((folder / "tmp").glob("unisono-compare-*"))


@pytest.mark.thorough
@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is not installed")
def test_one_keras_job_over_its_backends(folder: Path) -> None:
    job = TESTS.parent / "examples" / "digits_keras.py"
    backends = ["tensorflow", "torch"]
    arguments = (job, "--backends", ",".join(backends), "--workers", "1", "--steps", 2, "--rounds", 1)
    process = compare(*arguments, folder=folder)
    output, errors = process.communicate(timeout=limit())
    assert process.returncode == 0, errors
    rows = [line.split() for line in output.splitlines()]
    expected = [["digits_keras", f"({name})", "1"] for name in backends]
    assert [row[:3] for row in rows if len(row) == 9] == expected, output


@pytest.mark.few("arguments0-texts0", "arguments3-texts3")
@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["absent.py"], ["'absent.py' does not exist", "FILE.py[:NAME]"]),
        (["one.py", "one.py"], ["each job once", "one.py 2 times"]),
        (["one.py", "--python", "two.py=/bin/sh"], ["FILE=PATH, with FILE one of one.py", "two.py=/bin/sh"]),
        (["one.py", "--python", "one.py=/no/python"], ["'/no/python' cannot be run"]),
        (["one.py", "--python", "one.py=/bin/false"], ["must have Unisono", "/bin/false has none", "pip install"]),
        (["one.py", "two.py", "--backends", "jax"], ["one Keras job", "received 2 jobs"]),
        (["one.py", "--backends", "jax,theano"], ["tensorflow, jax, torch", "'jax,theano'"]),
        (["one.py", "--workers", "0"], ["workers must be a whole number from 1 to 4096; received 0"]),
        (["one.py", "--workers", "1,x"], ["received '1,x'"]),
        (["one.py", "--steps", "1"], ["--steps"]),
        ([], ["FILES"]),
    ],
)
def test_wrong_use_exits_2(folder: Path, arguments: list[str], texts: list[str]) -> None:
    process = compare(*arguments, folder=folder)
    output, errors = process.communicate(timeout=limit())
    assert process.returncode == 2, output
    for text in texts:
        assert text in errors


def test_an_interrupt_ends_the_run_at_hand_and_shows_what_there_is(folder: Path) -> None:
    process = compare("one.py", "--workers", "1", "--steps", jobs.FOR_EVER, folder=folder)
    begun = "unisono-compare-*/content/run/metrics.jsonl"
    until(lambda: process.poll() is not None or list((folder / "tmp").glob(begun)), "it trains")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=limit())
    assert process.returncode == 128 + signal.SIGTERM
    assert "not run" in output
    assert not psutil.wait_procs(children, timeout=limit())[1]
    assert not list((folder / "tmp").glob("unisono-compare-*"))


def measurement(seconds: float, workers: int = 2, batch: int = 32) -> Measurement:
    record = {"step_seconds": seconds, "samples_per_second": batch / seconds, "loss": 0.25}
    return Measurement(workers, [record] * 3, 1.5, 2**30, (batch, 8), "torch 2")


def test_the_table_takes_medians_of_timed_runs_and_names_the_fastest() -> None:
    names = ("slow.py", "fast.py", "absent.py")
    slow, fast, _ = competing = contenders(names, [], None, "python")
    found = Comparison(competing, (2,), 3, dict.fromkeys(names, 7))
    found.runs = {
        (slow, 2): [measurement(9.0), *map(measurement, (0.4, 0.2, 0.1))],
        (fast, 2): [measurement(9.0, workers=1), *map(measurement, (0.1, 0.1, 0.3))],
    }
    console = Console(width=120)
    with console.capture() as capture:
        console.print(found.render())
    text = capture.get()
    lines = [line.split() for line in text.splitlines()]
    assert ["slow", "2", "200.00", "160", "1024", "1.5", "0.2500", "7"] in lines
    assert ["fast", "1", "(of", "2)", "100.00", "320", "1024", "1.5", "0.2500", "7"] in lines
    assert ["absent", "2", "not", "run", *["–"] * 5] in lines
    assert "2 workers: fast is fastest; slow needs 2.00 × its time." in text
    assert found.exit_status == 0


def test_every_job_takes_each_place_in_turn() -> None:
    jobs = contenders(["a.py", "b.py:other", "c.py"], ["b.py=/env/python"], None, "python")
    assert [job.python for job in jobs] == ["python", "/env/python", "python"]
    made = turns(jobs, (1, 2), 2)
    assert len(made) == 3 * 2 * 3
    for number, first in enumerate(("a.py", "b.py:other", "c.py")):
        assert next(job for turn, job, _ in made if turn == number).spec == first


def test_lines_of_code_leave_out_comments_docstrings_and_blank_lines() -> None:
    source = (
        '"""Title.\n\nMore."""\n\n# why\nx = f(\n    1,\n    2,\n)\n\n\ndef g(a):\n    """Say."""\n    return a  # so\n'
    )
    assert code_lines(source) == 6
    assert code_lines('text = """one\ntwo\nthree"""\n') == 3


def test_names_are_files_without_folders_unless_two_are_the_same() -> None:
    assert [job.label for job in contenders(["x/a.py", "y/b.py:big"], [], None, "python")] == ["a", "b:big"]
    assert [job.label for job in contenders(["x/a.py", "y/a.py"], [], None, "python")] == ["x/a.py", "y/a.py"]
    (jax, torch) = contenders(["x/a.py"], ["x/a.py=/env/python"], "jax,torch", "python")
    assert (jax.label, jax.python, torch.backend) == ("a (jax)", "/env/python", "torch")


def test_an_interpreter_must_be_a_jobs() -> None:
    with pytest.raises(UsageError, match=r"FILE one of a\.py; received 'nonsense'"):
        contenders(["a.py"], ["nonsense"], None, "python")
