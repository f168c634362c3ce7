"""Who waits says for what, and hears a signal at once, whatever holds up the looking."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from unisono.errors import JobError, UsageError
from unisono.hosts import waiting as retrying
from unisono.hosts.waiting import NotYet, retry
from waiting import limit

STUCK = """
import threading
from unisono.hosts.waiting import retry

def look():
    print("looks", flush=True)
    threading.Event().wait()

retry(look, "waits", print, 1e6, "")
"""


def test_an_attempt_is_made_until_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "PAUSE_SECONDS", 0.0)
    tries = iter(range(3))

    def attempt() -> int:
        if (number := next(tries)) < 2:
            raise NotYet("it is early")
        return number

    assert retry(attempt, "a host waits", print, limit(), "") == 2


def test_what_is_waited_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "SAY_SECONDS", 0.0)
    said, enough = list[str](), threading.Event()

    def attempt() -> None:
        if not enough.is_set():
            raise NotYet("it is early")

    def say(text: str) -> None:
        said.append(text)
        if text.endswith("early"):
            enough.set()

    retry(attempt, "a host waits", say, limit(), "")
    assert said[-1] == "a host waits: it is early"


def test_in_vain() -> None:
    with pytest.raises(JobError, match=r"^a host waits: it has not answered yet, for 0\.1 s\. Go home\.$"):
        retry(threading.Event().wait, "a host waits", print, 0.1, "Go home.")


def test_an_error_ends_it() -> None:
    def attempt() -> None:
        raise UsageError("never so")

    with pytest.raises(UsageError, match="never so"):
        retry(attempt, "a host waits", print, limit(), "")


def test_a_signal_is_heard_while_the_looking_is_stuck() -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"looks\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(limit()) == -signal.SIGINT
