"""Data that hold files open, or threads: forks would share the place that is read, and have no threads."""

from __future__ import annotations

from pathlib import Path

import pytest

import unisono
from unisono.errors import JobError
from unisono.runs.jobfile import JobFile

RECORDS = """
import pathlib, sqlite3, zipfile
from concurrent.futures import ThreadPoolExecutor
import numpy as np, torch, jobs

class Data:
    file = None
    def __del__(self):
        if self.file is not None:
            self.file.close()
    def __len__(self):
        return 100
    def __getitem__(self, index):
        values = torch.from_numpy(np.frombuffer(self.read(index), np.float32).copy())
        if values[0] != index:
            raise ValueError(f"asked for record {index}, got {values[0]}")
        return values / 100, index % 5

class File(Data):
    def __init__(self):
        self.file = open("records", "rb", buffering=0)
    def read(self, index):
        self.file.seek(80 * index)
        return self.file.read(80)

class Late(File):
    def __init__(self):
        pass
    def read(self, index):
        if self.file is None:
            File.__init__(self)
        return super().read(index)

class Zip(Data):
    def __init__(self):
        self.file = zipfile.ZipFile("records.zip")
    def read(self, index):
        return self.file.read(str(index))

class Database(Data):
    def __init__(self):
        self.file = sqlite3.connect("records.db")
    def read(self, index):
        return self.file.execute("select bytes from records where number = ?", (index,)).fetchone()[0]

class Pool(Data):
    def __init__(self):
        self.pool = ThreadPoolExecutor(2)
    def read(self, index):
        return self.pool.submit(lambda: pathlib.Path("records").read_bytes()[80 * index :][:80]).result()

class Mapped(Data):
    def __init__(self):
        self.records = np.memmap("records", np.uint8, "r", shape=(100, 80))
    def read(self, index):
        return self.records[index]

class Drawn(File):
    def __init__(self):
        super().__init__()
        self.noise = torch.from_numpy(np.random.default_rng().normal(size=20))
    def __getitem__(self, index):
        values, target = super().__getitem__(index)
        return values + self.noise, target

if TOP:
    SAME = File()

def job(kind="File", given=False):
    made = globals()[kind]
    data = SAME if TOP else made() if given else made
    return jobs.make(data=data, evaluation=made, steps=6)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    exec(WRITING)
    return tmp_path


WRITING = """
import sqlite3, zipfile
import numpy as np
table = np.repeat(np.arange(100, dtype=np.float32)[:, None], 20, axis=1)
table[:, 1:] *= np.cos(np.arange(1, 20))
table.tofile("records")
with zipfile.ZipFile("records.zip", "w") as file:
    for number, row in enumerate(table):
        file.writestr(str(number), row.tobytes())
with sqlite3.connect("records.db") as base:
    base.execute("create table records (number integer, bytes blob)")
    base.executemany("insert into records values (?, ?)", [(n, row.tobytes()) for n, row in enumerate(table)])
base.close()
"""


def written(folder: Path, top: bool = False) -> str:
    (folder / "records_job.py").write_text(RECORDS.replace("TOP", str(top)))
    return str(folder / "records_job.py")


KINDS = ["File", "Late", "Zip", "Database", "Pool", "Mapped"]


@pytest.mark.few("File-False-False", "Pool-False-False")
@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_process_reads_for_itself(kind: str, given: bool, top: bool, here: Path) -> None:
    job = JobFile.of(written(here, top), [f"kind={kind}", f"given={given}"])
    alone = unisono.train(job, debug=True, out=here / "debug")
    together = unisono.train(job, workers=2, out=here / "out")
    assert together.parameters_sha256 == alone.parameters_sha256
    values = [
        [record.get("loss", record.get("evaluation/loss")) for record in run.history] for run in (alone, together)
    ]
    assert values[0] == values[1]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_worlds_read_for_themselves(kind: str, here: Path) -> None:
    job = JobFile.of(written(here), [f"kind={kind}"])
    assert unisono.verify(job, workers=[1, 3], steps=4, message=lambda text: None).agree


def test_data_that_are_others_in_each_process_are_refused(here: Path) -> None:
    job = JobFile.of(written(here), ["kind=Drawn"])
    with pytest.raises(JobError, match=r"must be the same in each; received others .*default_rng\(0\)"):
        unisono.train(job, workers=2, out=here / "out")
