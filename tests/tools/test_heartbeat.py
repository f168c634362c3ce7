"""A command behind the heartbeat: its output at once, a line when it is quiet, its signals and its status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.heartbeat import Pulse

from command_line import ROOT
from waiting import limit


@contextmanager
def beating(script: str, *options: str, **changes: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell script behind the heartbeat; it may read the pipe $GATE."""
    command = [sys.executable, str(ROOT / "tools" / "heartbeat.py"), *options, "it", "sh", "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **changes})
    with process:
        yield process


def gate(folder: Path) -> str:
    """A pipe: who reads it waits until somebody writes."""
    os.mkfifo(folder / "gate")
    return str(folder / "gate")


def read_until(process: subprocess.Popen[bytes], wanted: str) -> str:
    """What the process prints until this text has come."""
    assert process.stdout is not None
    found = b""
    while wanted.encode() not in found:
        output = os.read(process.stdout.fileno(), 1000)
        assert output, f"{found!r} ends before {wanted}"
        found += output
    return found.decode()


def test_a_quiet_command_is_said_to_run(tmp_path: Path) -> None:
    path = gate(tmp_path)
    with beating("printf half; cat $GATE; exit 7", "--every=0.01", GATE=path) as process:
        seen = read_until(process, "half")
        seen += read_until(process, "\n… it: ") + read_until(process, "\n… it: ")
        Path(path).write_text(" of a line\n")
        seen += read_until(process, " of a line\n")
        assert process.wait(limit()) == 7
    assert "half\n… it: 0 s\n" in seen


def test_a_line_is_due_so_long_after_the_last_one_ended() -> None:
    pulse = Pulse("it", every=15, began=100)
    assert pulse.beat(now=114) == b""
    pulse.heard(b"one\ntwo\n", now=114)
    pulse.heard(b"...", now=120)
    assert pulse.beat(now=128) == b""
    assert pulse.beat(now=129).decode() == "\n… it: 29 s\n"
    assert pulse.beat(now=143) == b""
    assert pulse.beat(now=144).decode() == "… it: 44 s\n"


def test_signals_go_on_to_the_command(tmp_path: Path) -> None:
    script = "trap 'echo caught; exit 3' TERM; echo ready; read line < $GATE"
    with beating(script, GATE=gate(tmp_path)) as process:
        read_until(process, "ready")
        process.send_signal(signal.SIGTERM)
        read_until(process, "caught")
        assert process.wait(limit()) == 3


def test_a_command_that_a_signal_ended() -> None:
    with beating("kill -KILL $$") as process:
        assert process.wait(limit()) == 128 + signal.SIGKILL


def test_what_the_command_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    path = gate(tmp_path)
    with beating("cat $GATE & echo over", GATE=path) as process:
        read_until(process, "over")
        assert process.wait(limit()) == 0
        Path(path).write_text("ended")
