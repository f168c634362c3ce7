"""The timeline is JSON that can be read at any time, and a full disk costs it only."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from unisono.observe import appended, timeline
from unisono.observe.timeline import Timeline


def whole(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def test_events_are_in_microseconds_since_the_first(tmp_path: Path) -> None:
    path, said = tmp_path / "timeline.json", []
    written = Timeline(lambda: tmp_path, said.append)
    written.name(0, "worker 0 (pipe 0, stage 0)")
    written.name(1, "worker 1 (pipe 0, stage 1)")
    written.add(0, "forward", 100.5, 100.75, {"microbatch": 3})
    written.add(1, "update", 100.25, 100.2500015, {})
    written.close()
    names, events = whole(path)[:5], whole(path)[5:]
    assert [event["args"] for event in names] == [
        {"name": "unisono"}, {"name": "worker 0 (pipe 0, stage 0)"}, {"sort_index": 0},
        {"name": "worker 1 (pipe 0, stage 1)"}, {"sort_index": 1},
    ]  # fmt: skip
    assert events == [
        {"name": "forward", "ph": "X", "ts": 250_000.0, "dur": 250_000.0, "args": {"microbatch": 3},
         "pid": 1, "tid": 1},
        {"name": "update", "ph": "X", "ts": 0.0, "dur": 1.5, "args": {}, "pid": 1, "tid": 2},
    ]  # fmt: skip
    assert names[0]["tid"] == events[0]["tid"]
    assert not said


def test_one_line_an_event_and_readable_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(timeline.time, "monotonic", lambda: clock[0])
    path = tmp_path / "timeline.json"
    killed = Timeline(lambda: tmp_path, print)
    for number in range(6):
        killed.add(0, "forward", number, number + 1, {"microbatch": number})
        clock[0] += 0.15
    text = path.read_text()
    assert text.startswith("[\n{")
    assert [json.loads(line.rstrip(","))["args"]["microbatch"] for line in text.splitlines()[4:]] == [0, 1, 2, 3]
    assert [event["ts"] for event in json.loads(text + "]")[3:]] == [0.0, 1e6, 2e6, 3e6]
    killed.close()
    assert len(whole(path)) == 3 + 6


def test_events_that_touch_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    times = [12345.0 + 0.1234567 * number for number in range(50)]
    written = Timeline(lambda: tmp_path, print)
    for started, ended in itertools.pairwise(times):
        written.add(0, "forward", started, ended, {})
    written.close()
    spans = [(round(1e3 * event["ts"]), round(1e3 * (event["ts"] + event["dur"]))) for event in whole(path)[3:]]
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_worker_that_comes_later_has_a_title_too(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    written = Timeline(lambda: tmp_path, print)
    written.name(0, "worker 0 (pipe 0, stage 0)")
    written.add(0, "update", 0.0, 1.0, {})
    written.add(2, "update", 0.0, 1.0, {})
    written.close()
    titles = {event["tid"]: event["args"]["name"] for event in whole(path) if event["name"] == "thread_name"}
    assert titles == {1: "worker 0 (pipe 0, stage 0)", 3: "worker 2"}


def test_without_events_it_is_an_empty_array(tmp_path: Path) -> None:
    Timeline(lambda: tmp_path, print).close()
    assert whole(tmp_path / "timeline.json") == []


def test_a_run_begins_anew(tmp_path: Path) -> None:
    for number in range(2):
        written = Timeline(lambda: tmp_path, print)
        written.add(0, "update", number, number + 1, {})
        written.close()
    assert len(whole(tmp_path / "timeline.json")) == 3 + 1


def test_a_full_disk_ends_it_with_one_message() -> None:
    said: list[str] = []
    written = Timeline(lambda: Path("/dev"), said.append, "full")
    written.name(0, "worker 0")
    for _ in range(3):
        written.add(0, "forward", 0.0, 1.0, {})
        written.close()
    assert len(said) == 1
    assert "full could not be written" in said[0]
    assert "training goes on" in said[0]


def test_a_disk_that_fills_up_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    path = tmp_path / "timeline.json"
    monkeypatch.setattr(timeline, "FLUSH_SECONDS", -1.0)
    written = Timeline(lambda: tmp_path, said.append)
    written.add(0, "forward", 0.0, 1.0, {})
    written.add(0, "backward", 1.0, 2.0, {})
    monkeypatch.setattr(appended, "write_whole", ten_bytes)
    written.add(0, "update", 2.0, 3.0, {})
    written.add(0, "forward", 3.0, 4.0, {})
    written.close()
    assert [event["name"] for event in json.loads(path.read_text() + "]")[3:]] == ["forward"]
    assert len(said) == 1


def ten_bytes(file: int, data: bytes) -> None:
    """A disk that takes ten bytes and then no more."""
    os.write(file, data[:10])
    raise OSError(28, "No space left on device")


def test_a_folder_that_takes_no_file_costs_the_timeline_only() -> None:
    said: list[str] = []
    written = Timeline(lambda: Path("/proc"), said.append)
    written.name(0, "worker 0")
    written.add(0, "forward", 0.0, 1.0, {})
    written.close()
    assert len(said) == 1
