"""The process that holds the job, and each that takes over, may die or hang, or not be able to fork: workers go on."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import jobs
from faults import CORES, hash_of, undisturbed
from unisono.observe.progress import Silent
from unisono.runs.execution import execute
from unisono.runs.observation import Observation
from unisono.runtime.processes.child import Birth
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor import answers, children
from unisono.runtime.supervisor.outcome import Outcome
from waiting import until

STEPS = 12
TAKES_OVER = "another one takes over"


def parents() -> list[psutil.Process]:
    """The processes of this one that hold jobs, besides those of other tests."""
    return [child for child in named("python") if child.pid not in KEPT and os.getpgid(child.pid) == child.pid]


def workers() -> set[int]:
    """Its workers and loaders."""
    return {child.pid for child in [*named("unisono-worker"), *named("unisono-loader")]}


def named(name: str) -> list[psutil.Process]:
    """Those children of this process that live and have this name."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            lives = (
                "unisono.runtime.processes.warm_parent" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE
            )
            found += [child] if lives and child.name().startswith(name) else []
    return found


@dataclass
class Run:
    """A run in this process that is held after its third step, until `go_on`."""

    folder: Path
    data: Callable[[Any], Any] = lambda data: data
    messages: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.hold = self.folder / "hold"
        self.hold.write_text("3")
        held = jobs.Held(STEPS, 32, str(self.hold))
        self.job = jobs.make(data=self.data(held), steps=STEPS, order="sequential")
        self.seen = Observation(self.job, Silent())
        self.seen.display.message = self.messages.append  # type: ignore[method-assign]

    def go_on(self, steps: int = STEPS) -> None:
        """Let so many steps be done, and wait for them if they are not all."""
        self.hold.write_text(str(steps))
        until(lambda: steps == STEPS or self.ended.is_set() or len(self.seen.records) >= steps, "it trains")

    def __call__(self) -> Outcome:
        try:
            return execute(self.job, Request(2, 1, CORES), self.seen)
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

    def undisturbed(self) -> tuple[str, list[dict[str, Any]]]:
        """The hash and the records that there must be."""
        self.hold.unlink()
        return undisturbed(self.job)


def results(records: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What of records belongs to the result."""
    return [(record["step"], record["loss"]) for record in records]


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
            if parent.pid not in self.done:
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


def losing(run: Run, times: int, stopped: bool = False) -> None:
    """While the process that holds the job is lost so many times, and the last that is to take over is stopped, half of
    the steps are done."""
    before = workers()
    Striking(signal.SIGSTOP if stopped else signal.SIGKILL, times)(run)
    last = Striking(signal.SIGSTOP, 1)
    if not stopped:
        until(lambda: run.ended.is_set() or len([text for text in run.messages if TAKES_OVER in text]) >= times)
        last(run)
    run.go_on(STEPS // 2)
    assert workers() == before, "nobody has been replaced"
    for parent in parents():
        with suppress(psutil.Error):
            parent.resume()


@pytest.mark.few("twice", "stopped")
@pytest.mark.parametrize(("times", "stopped"), [(1, False), (2, False), (1, True)], ids=["killed", "twice", "stopped"])
def test_those_at_work_go_on_without_it(tmp_path: Path, times: int, stopped: bool) -> None:
    run = Run(tmp_path)
    with run.disturbed(lambda run: losing(run, times, stopped)):
        outcome = run()
    assert outcome.failure is None, outcome.failure
    expected = run.undisturbed()
    assert hash_of(outcome) == expected[0]
    assert results(run.seen.records) == results(expected[1])


def test_a_worker_that_dies_with_it_is_replaced_and_the_others_go_on_meanwhile(tmp_path: Path) -> None:
    def dying(run: Run) -> None:
        (parent,), before = parents(), workers()
        parent.suspend()
        dead = killing()
        run.go_on(STEPS // 2)
        assert workers() == before - {dead}
        parent.resume()
        until(lambda: run.ended.is_set() or len(workers()) == len(before), "it is replaced")

    run = Run(tmp_path)
    with run.disturbed(dying):
        outcome = run()
    assert outcome.failure is None, outcome.failure
    assert hash_of(outcome) == run.undisturbed()[0]


@dataclass
class Forking:
    """Data that have whoever opens them die when he next forks and a file says so.

    Args:
        data: the data.
        file: says it, once.
        when: of `os.register_at_fork`.
    """

    data: Any
    file: Path
    when: str

    def __call__(self) -> Any:
        def die() -> None:
            with suppress(FileNotFoundError):
                self.file.unlink()
                os.kill(os.getpid(), signal.SIGKILL)

        os.register_at_fork(**{self.when: die})  # type: ignore[call-overload]
        return self.data


@pytest.mark.thorough
@pytest.mark.parametrize("when", ["before", "after_in_parent", "after_in_child"])
def test_a_death_while_it_forks_leaves_nobody_at_work_twice(tmp_path: Path, when: str) -> None:
    def dying(run: Run) -> None:
        before = workers()
        (tmp_path / "dies").touch()
        dead = killing()
        until(lambda: run.ended.is_set() or len(workers() - {dead}) == len(before), "it is replaced")
        assert not (tmp_path / "dies").exists()
        run.go_on(STEPS // 2)
        assert len(workers()) == len(before)

    run = Run(tmp_path, lambda data: Forking(data, tmp_path / "dies", when))
    with run.disturbed(dying):
        outcome = run()
    assert outcome.failure is None, outcome.failure
    assert hash_of(outcome) == run.undisturbed()[0]


def test_three_in_a_row_end_the_run_with_all_that_was_learnt(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with run.disturbed(Striking(signal.SIGKILL, 3)):
        outcome = run()
    assert outcome.failure is not None
    assert "the process that holds the job was ended by SIGKILL" in outcome.failure.message
    assert "3 times in a row" in outcome.failure.message
    assert outcome.consistent
    assert outcome.steps_done >= 3, "those at work finish their step, whichever that is"
    run.hold.unlink()
    assert hash_of(outcome) == undisturbed(replace(run.job, steps=outcome.steps_done))[0]


def test_one_that_is_stopped_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "patience_after", lambda longest: 300.0 if longest is None else max(2.0, 3 * longest))
    run = Run(tmp_path)

    def ended() -> int:
        return len([text for text in run.messages if "holds the job made no progress and was ended" in text])

    def stopping(run: Run) -> None:
        Striking(signal.SIGSTOP, 2)(run)  # at work, and while it takes over
        until(lambda: run.ended.is_set() or ended() == 2, "both are ended")

    with run.disturbed(stopping):
        outcome = run()
    assert outcome.failure is None, outcome.failure
    assert ended() == 2
    assert hash_of(outcome) == run.undisturbed()[0]


def killing() -> int:
    """Kill a worker; returns which."""
    worker = named("unisono-worker")[0]
    worker.kill()
    return worker.pid


@pytest.mark.parametrize("times", [2, 10**6], ids=["for a while", "for ever"])
def test_who_cannot_be_forked_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    tried: list[int] = []

    class Refused(Birth):
        """One that this process may open no files for."""

        def __init__(self) -> None:
            if len(workers()) < 4 and (tmp_path / "refused").exists() and len(tried) < times:
                tried.append(1)
                raise OSError(errno.EMFILE, "Too many open files")
            super().__init__()

    monkeypatch.setattr(children, "Birth", Refused)

    def refusing(run: Run) -> None:
        (tmp_path / "refused").touch()
        killing()
        until(lambda: run.ended.is_set() or len(tried) >= 2, "it is tried")

    run = Run(tmp_path)
    with run.disturbed(refusing):
        outcome = run()
    if times == 2:
        assert outcome.failure is None, outcome.failure
        assert len(tried) == 2
        assert hash_of(outcome) == run.undisturbed()[0]
    else:
        assert outcome.failure is None or "3 times in a row: too many open files" in outcome.failure.message
        assert outcome.consistent
    assert any("trying again" in text for text in run.messages)


def test_a_holder_that_may_open_no_more_files_is_named(tmp_path: Path) -> None:
    def limiting(run: Run) -> None:
        (parent,) = parents()
        resource.prlimit(parent.pid, resource.RLIMIT_NOFILE, (3, 3))
        for worker in [*named("unisono-worker"), *named("unisono-loader")]:
            worker.kill()
        until(run.ended.is_set, "it ends")

    run = Run(tmp_path)
    with run.disturbed(limiting):
        outcome = run()
    assert outcome.failure is not None
    assert "a process could not be started, 3 times in a row: too many open files" in outcome.failure.message
    assert outcome.consistent
    assert outcome.steps_done == 3
