"""FILE.py[:NAME] key=value."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import unisono
from unisono.commands.verify.report import VerifyReport
from unisono.errors import JobError, UsageError
from unisono.runs.jobfile import JobFile, load

TEXT = """
import jobs
def job(lr=0.1, steps=3, name="a", deep=False):
    return jobs.make(steps=steps)
ready = jobs.make(steps=2)
def broken():
    return 1 / 0
def other():
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "some_job.py"
    path.write_text(TEXT)
    return str(path)


def test_arguments_take_the_types_of_the_defaults(file: str) -> None:
    loaded = load(file, ["lr=3e-4", "steps=7", "deep=yes"])
    assert loaded.job.steps == 7
    assert loaded.arguments == {"lr": 3e-4, "steps": 7, "name": "a", "deep": True}
    assert load(f"{file}:ready").job.steps == 2


@pytest.mark.parametrize(
    ("suffix", "arguments", "error", "text"),
    [
        ("", ["size=3"], UsageError, "one of lr, steps, name, deep; received 'size=3'"),
        ("", ["steps=x"], UsageError, "steps takes a whole number .as its default"),
        (":nothing", [], UsageError, "must define 'nothing'"),
        (":ready", ["a=1"], UsageError, "takes no key=value"),
        (":other", [], UsageError, "returned int"),
        (":broken", [], JobError, "ZeroDivisionError"),
        ("x", [], UsageError, "does not exist"),
    ],
)
def test_what_is_wrong_is_named(
    file: str, suffix: str, arguments: list[str], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        load(file + suffix, arguments)


def test_a_file_that_is_not_python_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.py"
    path.write_text("no python at all")
    with pytest.raises(UsageError, match="is not"):
        load(str(path))


@pytest.mark.parametrize("name", ["keras", "random", "torch", "numpy"])
def test_a_file_that_hides_a_module_is_told_so(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text(TEXT)
    with pytest.raises(UsageError, match=rf"must not hide another one's; received .*Rename it: {name}_job\.py"):
        JobFile.of(f"{tmp_path}/{name}.py")


ONCE = """
import os, sys, pathlib, threading
import numpy as np, torch, jobs
print("read by", os.getpid(), sys.argv)
with open("reads", "a") as file:
    file.write(f"{os.getpid()}\\n")
noise = np.random.default_rng(SEED).normal(size=(100, 20)).astype("float32")  # another one whenever the file is read
if THREADS:
    threading.Thread(target=threading.Event().wait, daemon=True).start()

class Data:
    def __len__(self):
        return len(noise)
    def __getitem__(self, index):
        return torch.from_numpy(noise[index]), index % 5

class Batch(tuple):  # found again in a worker, because that has run the file too
    pass

def collate(samples):
    inputs, targets = zip(*samples)
    return Batch((torch.stack(inputs), torch.tensor(targets)))

def job(steps=3, seen=""):
    def loss(outputs, targets):
        assert type(sys.modules["once"].Batch) is type
        return torch.nn.functional.cross_entropy(outputs, targets)
    def observer(record):
        with open(seen, "a") as file:
            file.write(f"{os.getpid()} {record['step']}\\n")
    return jobs.make(data=Data(), collate=collate, loss=loss, steps=steps, observers=[observer] if seen else [])
"""


def once(folder: Path, threads: bool = False, seed: str = "") -> Path:
    path = folder / "once.py"
    path.write_text(ONCE.replace("THREADS", str(threads)).replace("SEED", seed))
    return path


def reads(folder: Path) -> list[str]:
    return (folder / "reads").read_text().splitlines()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "once", raising=False)  # that of a test before
    return tmp_path


def test_a_file_is_run_once_and_not_here(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    job = JobFile.of(str(once(here)), ["steps=2"])
    run = unisono.train(job, workers=2, out=here / "out")
    assert run.manifest["arguments"] == {"steps": 2, "seen": ""}
    assert len(reads(here)) == 1
    assert reads(here) != [str(os.getpid())]
    assert "once" not in sys.modules
    assert f"read by {reads(here)[0]} ['{here}/once.py']" in capfd.readouterr().out


def reads_of_worlds(report: VerifyReport, here: Path) -> int:
    """How often worlds that agree have read the file; --debug reads it for itself."""
    alone = [world for world in report.worlds if world.name.startswith("--debug")]
    assert len({world.parameters_sha256 for world in report.worlds if world not in alone}) == 1
    return len(reads(here)) - len(alone)


def test_worlds_share_what_was_read(here: Path) -> None:
    report = unisono.verify(JobFile.of(str(once(here))), workers=[1, 3], steps=2, message=lambda text: None)
    assert reads_of_worlds(report, here) == 1, "the noise was drawn once"


def test_a_file_that_leaves_threads_is_run_by_every_process(here: Path) -> None:
    run = unisono.train(JobFile.of(str(once(here, threads=True, seed="0"))), workers=2, out=here / "out")
    assert run.status == "completed"
    assert len(reads(here)) == len(set(reads(here))) >= 2 + 2 + 2, "who tried first, the scout, workers and loaders"


def test_a_file_that_is_another_one_in_each_process_is_refused(here: Path) -> None:
    with pytest.raises((JobError, UsageError), match=r"run by each process.*received others for noise\. Seed"):
        unisono.train(JobFile.of(str(once(here, threads=True))), workers=2, out=here / "out")


def test_observers_run_where_the_run_is_supervised(here: Path) -> None:
    unisono.train(JobFile.of(str(once(here)), ["seen=records"]), workers=1, out=here / "out")
    assert (here / "records").read_text() == "".join(f"{os.getpid()} {step}\n" for step in (1, 2, 3))


def test_who_edits_the_file_changes_no_run(here: Path) -> None:
    path = once(here)
    job = JobFile.of(str(path))
    path.write_text("raise RuntimeError")
    assert unisono.train(job, workers=1, out=here / "out").status == "completed"


def test_fields_are_replaced_where_the_file_is_run(here: Path) -> None:
    run = unisono.train(JobFile.of(str(once(here)), [], {"steps": 1, "epochs": None, "seed": 9}), out=here / "out")
    assert run.manifest["job"]["seed"] == 9
    assert run.manifest["steps_done"] == 1


LEAVING = "import sys\nsys.exit(3)\n"


def test_a_file_that_ends_its_process_is_told(here: Path) -> None:
    (here / "leaving.py").write_text(LEAVING)
    with pytest.raises(JobError, match=r"leaving.py failed while it was read: the job.s code called sys.exit\(3\)"):
        unisono.train(JobFile.of("leaving.py"))
    assert not (here / "runs").exists()
