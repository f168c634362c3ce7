"""An outlet keeps the order, never blocks who puts something in, and says once what was lost."""

from __future__ import annotations

import threading

import pytest

from unisono.observe import outlet as outlets
from unisono.observe.outlet import Inline, Outlet
from waiting import limit, until


class Stuck:
    """A function that does not come back until it is let go."""

    def __init__(self) -> None:
        self.entered, self._free = threading.Event(), threading.Event()

    def __call__(self, *_: object) -> None:
        self.entered.set()
        self._free.wait()

    def let_go(self) -> None:
        self._free.set()


def test_what_is_put_is_done_in_order_and_elsewhere() -> None:
    done: list[tuple[int, threading.Thread]] = []
    outlet = Outlet("the list", print)
    for number in range(1000):
        outlet.put(lambda number=number: done.append((number, threading.current_thread())))
    assert outlet.settle(limit())
    assert [number for number, _ in done] == list(range(1000))
    assert {thread is threading.current_thread() for _, thread in done} == {False}
    assert outlet.close(limit())
    until(lambda: not done[0][1].is_alive(), "its thread has ended")


def test_a_stuck_thing_holds_up_nobody_and_what_it_cost_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlets, "MOST_THINGS", 10)
    said: list[str] = []
    stuck = Stuck()
    outlet = Outlet("the disk", said.append)
    outlet.put(stuck)
    assert stuck.entered.wait(limit())
    for _ in range(15):
        outlet.put(print)
    assert not outlet.settle(0)
    assert not outlet.close(0)
    outlet.close(0)
    assert said == ["the disk: 16 things dropped (no answer in 0 s)"]
    stuck.let_go()


def test_text_that_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlets, "MOST_BYTES", 100)
    said: list[str] = []
    shown: list[str] = []
    stuck = Stuck()
    outlet = Outlet("the terminal", said.append)
    outlet.put(stuck)
    assert stuck.entered.wait(limit())
    for _ in range(3):
        outlet.put(shown.append, "x" * 50)
    stuck.let_go()
    assert outlet.close(limit())
    assert shown == ["x" * 50] * 2
    assert said == ["the terminal: 1 thing dropped"]


def test_who_gives_no_answer_is_named_while_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlets, "SLOW_SECONDS", 0.0)
    said: list[str] = []
    stuck = Stuck()
    outlet = Outlet("the disk", said.append)
    outlet.put(stuck)
    assert stuck.entered.wait(limit())
    for _ in range(3):
        outlet.put(len, "")
    assert said == ["the disk: no answer for 0 s; training goes on, what comes waits"]
    stuck.let_go()
    assert outlet.close(limit())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SystemExit(3)])
def test_what_raises_is_said_once_and_counted(error: BaseException) -> None:
    def fails() -> None:
        raise error

    said: list[str] = []
    outlet = Outlet("the disk", said.append)
    for _ in range(3):
        outlet.put(fails)
    assert outlet.close(limit())
    assert said == [f"the disk: {type(error).__name__}: {error}; training goes on", "the disk: failed 3 times in all"]


def test_without_threads_it_drops_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(outlets.threading.Thread, "start", start)
    said: list[str] = []
    outlet = Outlet("the disk", said.append)
    outlet.put(print)
    assert outlet.close(limit())
    assert said == ["the disk: 1 thing dropped"]


def test_in_debug_mode_it_is_done_at_once_and_here() -> None:
    done: list[threading.Thread] = []
    said: list[str] = []
    outlet = Inline("observer 'mine'", said.append)
    outlet.put(lambda: done.append(threading.current_thread()))
    assert done == [threading.current_thread()]
    for _ in range(2):
        outlet.put(lambda: 1 / 0)
    assert outlet.settle(0)
    assert outlet.close(0)
    assert said == [
        "observer 'mine': ZeroDivisionError: division by zero; training goes on",
        "observer 'mine': failed 2 times in all",
    ]
