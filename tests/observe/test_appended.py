"""A file takes whole pieces, and is found again wherever its folder has gone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from unisono.observe import appended
from unisono.observe.appended import Appended
from unisono.observe.outlet import Inline
from unisono.observe.run_folder import RUN, RunFolder, read_run


def test_a_piece_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    file = Appended(lambda: tmp_path, "deep/file", said.append)
    assert file.write(b"one\n")

    def half(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(appended, "write_whole", half)
        assert not file.write(b"two\n")
        assert not file.write(b"three\n")
    assert file.write(b"four\n")
    file.close()
    assert (tmp_path / "deep" / "file").read_bytes() == b"one\nfour\n"
    assert said == ["deep/file could not be written: [Errno 28] No space left on device; training goes on"]


def test_a_file_that_is_removed_begins_anew(tmp_path: Path) -> None:
    said: list[str] = []
    file = Appended(lambda: tmp_path, "logs/file", said.append)
    file.write(b"one\n")
    shutil.rmtree(tmp_path / "logs")
    assert file.write(b"two\n")
    file.close()
    assert (tmp_path / "logs" / "file").read_bytes() == b"two\n"
    assert said == ["logs/file has been removed: it begins anew with what comes now; training goes on"]


def held(path: Path, said: list[str]) -> RunFolder:
    folder = RunFolder.create(path)
    folder.update(exit="running")
    folder.hold(Inline("the run folder", said.append), said.append)
    return folder


def test_a_run_folder_that_is_moved_goes_on_where_it_is(tmp_path: Path) -> None:
    said: list[str] = []
    folder = held(tmp_path / "run", said)
    (tmp_path / "run").rename(tmp_path / "moved")
    RunFolder.create(tmp_path / "run").update(exit="another's")
    folder.update(exit="completed")
    folder.release()
    assert folder.path == tmp_path / "moved"
    assert read_run(tmp_path / "moved") == {"exit": "completed"}
    assert read_run(tmp_path / "run") == {"exit": "another's"}
    assert not said


def test_a_run_folder_that_is_removed_is_made_anew(tmp_path: Path) -> None:
    said: list[str] = []
    folder = held(tmp_path / "run", said)
    shutil.rmtree(tmp_path / "run")
    folder.update(steps_done=3)
    folder.update(exit="completed")
    assert read_run(tmp_path / "run") == {"exit": "completed", "steps_done": 3}
    assert said == [f"{tmp_path / 'run'} has been removed: it is made anew for what comes now; training goes on"]
    assert folder.unwritten is None


def test_another_runs_folder_in_its_place_is_not_touched(tmp_path: Path) -> None:
    said: list[str] = []
    folder = held(tmp_path / "run", said)
    shutil.rmtree(tmp_path / "run")
    RunFolder.create(tmp_path / "run").update(exit="another's")
    folder.update(exit="completed")
    with pytest.raises(FileExistsError, match="another run has taken the folder's place"):
        folder.claim()
    folder.release()
    assert read_run(tmp_path / "run") == {"exit": "another's"}
    assert [RUN in text for text in said] == [True]
    assert folder.unwritten == {"exit": "completed"}
