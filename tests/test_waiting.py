"""Waits end with what they are for, and with the processes that it could come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import waiting


def test_no_wait_goes_on_once_all_that_was_started_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LAST_SECONDS", 0.01)
    with (
        subprocess.Popen([sys.executable, "-c", ""]) as ends,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as lives,
    ):
        waiting.watch(ends)
        waiting.watch(lives)
        ends.wait(waiting.limit())
        looks = iter([False] * 100)
        assert waiting.until(lambda: next(looks, "one lives")) == "one lives"
        lives.kill()
        with pytest.raises(AssertionError, match="all processes have ended before pigs fly"):
            waiting.until(lambda: False, "pigs fly")


def test_what_has_come_with_the_end_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "there"
    with subprocess.Popen([sys.executable, "-c", f"open({str(path)!r}, 'w').close()"]) as process:
        waiting.watch(process)
        waiting.until(path.exists)
