"""What processes print is kept byte for byte, and shown by line: bounded, at a cost that grows with its length."""

from __future__ import annotations

import pytest

from unisono.observe import logs
from unisono.observe.logs import MOST_BYTES, LineLog


def made() -> tuple[LineLog, list[bytes], list[str]]:
    kept: list[bytes] = []
    shown: list[str] = []
    return LineLog(kept.append, "[worker 0] ", shown.append), kept, shown


def test_lines_are_whole() -> None:
    log, kept, shown = made()
    log.feed(b"one\ntw")
    log.feed(b"o\nthree")
    log.close()
    assert shown == ["[worker 0] one", "[worker 0] two", "[worker 0] three"]
    assert b"".join(kept) == b"one\ntwo\nthree\n"


def test_lines_that_come_together_are_shown_together() -> None:
    log, _, shown = made()
    log.feed(b"one\ntwo\n\nthr")
    assert shown == ["[worker 0] one\n[worker 0] two\n[worker 0] "]


def test_a_line_without_an_end_is_shown_in_pieces_and_never_held_whole() -> None:
    log, kept, shown = made()
    text = "漢" * 100_000
    for start in range(0, len(text), 1000):
        log.feed(text[start : start + 1000].encode())
    assert len(shown) == len(text.encode()) // (MOST_BYTES - 4)
    log.close()
    assert "".join(piece.removeprefix("[worker 0] ") for piece in shown) == text, "cut between letters"
    assert b"".join(kept).decode() == text + "\n"


def test_a_bar_that_draws_over_itself_is_shown_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: clock[0])
    log, kept, shown = made()
    for percent in range(0, 100, 10):
        clock[0] += 3.0
        log.feed(b"\r%d %%" % percent)
    assert shown == ["[worker 0] 30 %", "[worker 0] 70 %"]
    log.feed(b"\r100 %\n")
    assert shown[-1] == "[worker 0] 100 %"
    assert b"".join(kept).startswith(b"\r0 %\r10 %")


def test_what_is_for_the_file_is_shown_only_where_there_is_none() -> None:
    log, kept, shown = made()
    log.take_aside(b"a stack\n")
    assert (kept, shown) == ([b"a stack\n"], [])
    LineLog(None, "[worker 0] ", shown.append).take_aside(b"a stack\n")
    assert shown == ["[worker 0] a stack"]
