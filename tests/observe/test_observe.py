"""Run folders, metrics, TensorBoard events, logs and the progress line."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event, SessionLog

from unisono.errors import UsageError
from unisono.observe.metrics import MetricsFile, read_metrics
from unisono.observe.progress import Live, Plain
from unisono.observe.run_folder import RunFolder, read_run
from unisono.observe.tensorboard import TensorBoard

STEP: dict[str, Any] = {
    "step": 1, "epoch": 1, "loss": 0.5, "samples_per_second": 100.0, "compute_seconds": [0.1, 0.2],
}  # fmt: skip


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.update(exit="running")
    folder.update(exit="completed", steps_done=3)
    assert read_run(tmp_path / "run") == {"exit": "completed", "steps_done": 3}
    with pytest.raises(UsageError, match="already holds one"):
        RunFolder.create(tmp_path / "run")
    with pytest.raises(UsageError, match="writable"):
        RunFolder.create(Path("/proc/nowhere"))


def test_a_record_can_be_read_at_once(tmp_path: Path) -> None:
    file = MetricsFile(lambda: tmp_path, print)
    for step in range(1, 4):
        file.write({"step": step})
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == step
    file.close()


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(lambda: tmp_path, print)
    file.write(STEP)
    file.close()
    with path.open("a") as torn:
        torn.write('{"step": 2, "lo')
    assert read_metrics(path) == [STEP]


def test_what_is_no_record_is_left_out_and_nothing_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_bytes(b'{"step": 1, "loss": null}\n\xff\n' + b"[" * 10**5 + b'\n[2]\n{"loss": 1}\n{"step": 2}\n')
    first, last = read_metrics(path)
    assert (first["step"], math.isnan(first["loss"]), last) == (1, True, {"step": 2})
    path.unlink()
    for make in (os.mkfifo, os.mkdir):
        make(path)
        with pytest.raises(UsageError, match=r"a run's records are lines of a file; .*metrics\.jsonl: a (pipe|folder)"):
            read_metrics(path)
        path.rename(tmp_path / make.__name__)


def events(folder: Path) -> list[Event]:
    data = next(folder.glob("events*")).read_bytes()
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        found.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += 16 + length
    return found


def test_events_carry_the_same_names(tmp_path: Path) -> None:
    board = TensorBoard(lambda: tmp_path, print)
    board.write(STEP)
    board.close()
    tags = {value.tag: value.simple_value for event in events(tmp_path) for value in event.summary.value}
    assert tags["loss"] == 0.5
    assert set(tags) == {"epoch", "loss", "samples_per_second", "compute_seconds/0", "compute_seconds/1"}


def test_without_tensorboardx_a_run_says_so_once_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX.record_writer", None)
    said: list[str] = []
    board = TensorBoard(lambda: tmp_path, said.append)
    board.restart(1)
    board.write(STEP)
    board.close()
    assert len(said) == 1
    assert "pip install tensorboardX" in said[0]
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_tells_tensorboard_what_to_forget(tmp_path: Path) -> None:
    board = TensorBoard(lambda: tmp_path, print)
    board.restart(300)
    board.close()
    assert [(event.step, event.session_log.status) for event in events(tmp_path)] == [(0, 0), (301, SessionLog.START)]


def test_writing_events_loads_no_framework(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from unisono.observe.tensorboard import TensorBoard
TensorBoard(lambda: Path({str(tmp_path)!r}), print).close()
print("tensorboardX" in sys.modules, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_of_fast_steps_the_last_and_every_evaluation_are_kept(tmp_path: Path) -> None:
    board = TensorBoard(lambda: tmp_path, print)
    for step in range(1, 101):
        board.write({**STEP, "step": step})
        if step % 50 == 0:
            board.write({"step": step, "evaluation/loss": 1.0})
    board.close()
    steps = [event.step for event in events(tmp_path) if event.summary.value]
    assert steps[0] == 1
    assert steps.count(50) >= 1
    assert steps.count(100) == 2
    assert len(steps) < 60


def test_the_live_line_shows_step_loss_rate_and_workers() -> None:
    screen = io.StringIO()
    live = Live(Console(file=screen, force_terminal=True, width=120, color_system=None))
    live.start(10, 2, 4)
    live.update(STEP)
    live.message("[worker 1] [bold]hello")
    live.close()
    text = screen.getvalue()
    for part in ("step 1/10", "epoch 1/2", "loss 0.5000", "100 samples/s", "4 workers", "[bold]hello"):
        assert part in text


def test_without_a_terminal_evaluations_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    plain = Plain()
    plain.start(10, None, 2)
    plain.update(STEP)
    plain.update({"step": 1, "evaluation/loss": 0.25})
    assert capsys.readouterr().out == "step 1  evaluation/loss 0.2500\n"
