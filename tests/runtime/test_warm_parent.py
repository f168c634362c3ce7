"""The process that holds the job, and each that takes over, may die or hang, or not be able to fork."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

import jobs
from faults import CORES, hash_of, undisturbed
from unisono.execution import Observation, execute
from unisono.observe.progress import Silent
from unisono.runtime import answers
from unisono.runtime.host import Host, NotForked
from unisono.runtime.prepare import Request
from unisono.runtime.watcher import Outcome
from waiting import until

STEPS = 12


def parents() -> list[psutil.Process]:
    """The processes of this one that hold jobs."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "unisono.runtime.parent" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


@dataclass
class Run:
    """A run in this process that is held after its third step, until `go_on`."""

    folder: Path
    messages: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.hold = self.folder / "hold"
        self.hold.write_text("3")
        held = jobs.Held(STEPS, 32, str(self.hold))
        self.job = jobs.make(data=held, steps=STEPS, order="sequential")
        self.seen = Observation(self.job, Silent())
        self.seen.display.message = self.messages.append  # type: ignore[method-assign]

    def go_on(self) -> None:
        self.hold.write_text(str(STEPS))

    def __call__(self, stall_seconds: float | None = None) -> Outcome:
        try:
            return execute(self.job, Request(2, 1, CORES), self.seen, stall_seconds)
        finally:
            self.ended.set()

    @contextmanager
    def disturbed(self, by: Callable[[Run], None]) -> Iterator[None]:
        """Beside this block, once three steps are done."""

        def act() -> None:
            until(lambda: self.ended.is_set() or len(self.seen.records) >= 3, "it trains")
            try:
                by(self)
            finally:
                self.go_on()

        thread = threading.Thread(target=act)
        thread.start()
        yield
        thread.join()

    def hash(self) -> str:
        """The undisturbed one."""
        self.hold.unlink()
        return undisturbed(self.job)[0]


@dataclass
class Striking:
    """Does something to each process that holds the job, so many times."""

    does: signal.Signals
    times: int
    done: set[int] = field(default_factory=set)

    def __call__(self, run: Run) -> None:
        for _ in range(self.times):
            until(lambda: run.ended.is_set() or self._strikes(), "there is one")

    def _strikes(self) -> bool:
        for parent in parents():
            if parent.pid not in self.done | KEPT:
                self.done.add(parent.pid)
                with suppress(psutil.Error):
                    parent.send_signal(self.does)
                return True
        return False


KEPT: set[int] = set()
"""Of other tests."""


@pytest.fixture(autouse=True)
def _others() -> Iterator[None]:
    KEPT.update(parent.pid for parent in parents())
    yield
    KEPT.clear()


def test_the_one_that_takes_over_may_die_too(tmp_path: Path) -> None:
    run = Run(tmp_path)
    strikes = Striking(signal.SIGKILL, 2)
    with run.disturbed(strikes):
        outcome = run()
    assert len(strikes.done) == 2
    assert outcome.failure is None, outcome.failure
    assert len([text for text in run.messages if "another one takes over" in text]) == 2
    assert hash_of(outcome) == run.hash()


def test_three_in_a_row_end_the_run_with_all_that_was_learnt(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.disturbed(Striking(signal.SIGKILL, 3)):
        outcome = run()
    assert outcome.failure is not None
    assert "the process that holds the job was ended by SIGKILL" in outcome.failure.message
    assert "3 times in a row" in outcome.failure.message
    assert outcome.consistent
    assert outcome.steps_done == 3


def test_one_that_is_stopped_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "FLOOR_SECONDS", 2.0)
    monkeypatch.setattr(answers, "MULTIPLE", 5.0)
    run = Run(tmp_path)
    strikes = Striking(signal.SIGSTOP, 2)  # at work, and while it takes over
    with run.disturbed(strikes):
        outcome = run(stall_seconds=2.0)
    assert outcome.failure is None, outcome.failure
    assert len([text for text in run.messages if "made no progress and was ended" in text]) == 2
    assert hash_of(outcome) == run.hash()


def killing(run: Run) -> None:
    """Kill a worker."""
    for parent in parents():
        for child in parent.children():
            if parent.pid not in KEPT and child.name() == "unisono-worker":
                child.kill()
                return


@pytest.mark.parametrize("times", [2, 10**6], ids=["for a while", "for ever"])
def test_who_cannot_be_forked_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    fork, tried = Host.fork, []

    def refusing(host: Host, role: str, number: int, place: int) -> Any:
        if role == "worker" and number >= 2 and len(tried) < times:
            tried.append(number)
            raise NotForked("the system starts no more processes")
        return fork(host, role, number, place)

    monkeypatch.setattr(Host, "fork", refusing)
    run = Run(tmp_path)
    with run.disturbed(lambda run: (killing(run), until(lambda: run.ended.is_set() or len(tried) >= 2))[0]):
        outcome = run()
    if times == 2:
        assert outcome.failure is None, outcome.failure
        assert len(tried) == 2
        assert hash_of(outcome) == run.hash()
    else:
        assert outcome.failure is None or "3 times in a row: the system starts no more" in outcome.failure.message
        assert outcome.consistent
    assert any("trying again" in text for text in run.messages)


def test_a_holder_that_may_open_no_more_files_is_named(tmp_path: Path) -> None:
    def limiting(run: Run) -> None:
        (parent,) = [parent for parent in parents() if parent.pid not in KEPT]
        resource.prlimit(parent.pid, resource.RLIMIT_NOFILE, (3, 3))
        for worker in parent.children():
            worker.kill()
        until(run.ended.is_set, "it ends")

    run = Run(tmp_path)
    with run.disturbed(limiting):
        outcome = run()
    assert outcome.failure is not None
    assert "a process could not be started, 3 times in a row: too many open files" in outcome.failure.message
    assert outcome.consistent
    assert outcome.steps_done == 3
