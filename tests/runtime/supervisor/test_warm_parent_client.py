"""The process that holds the job: how its end is told."""

from __future__ import annotations

import itertools
import os
import selectors
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import jobs
from unisono.runtime.processes.source import Pickled
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor import parent_link
from unisono.runtime.supervisor.outputs import Outputs
from unisono.runtime.supervisor.parent_link import WarmParentLost
from unisono.runtime.supervisor.warm_parent_client import WarmParent


@pytest.mark.parametrize(
    ("kills", "text"),
    [
        (itertools.repeat(3), "was ended by SIGKILL"),
        (itertools.count(), "was killed because memory ran out.*Fewer workers"),
    ],
    ids=["killed", "memory"],
)
def test_why_the_holder_of_the_job_is_gone(kills: object, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent_link, "out_of_memory_kills", lambda: next(kills))  # type: ignore[call-overload]
    before = psutil.Process().children()
    with WarmParent() as held:
        (parent,) = [child for child in psutil.Process().children() if child not in before]
        parent.kill()
        with pytest.raises(WarmParentLost, match=f"the process that holds the job {text}"):
            held.ask("catch_up", 0)


def test_what_is_done_meanwhile_is_done_while_the_job_is_made_ready() -> None:
    order: list[object] = []
    answered = os.eventfd(1)

    class Parent:
        """A process that answers at once."""

        socket, pid = SimpleNamespace(fileno=lambda: answered), 0

        def send(self, message: tuple[str, ...], files: object) -> None:
            order.append(message[0])

        def receive(self) -> tuple[str, list[int]]:
            order.append("answer")
            return "described", []

    parent: Any = Parent()
    assert (
        WarmParent((parent, parent, -1)).prepare(Request(1, 1, (0,)), lambda: order.append("meanwhile")) == "described"
    )
    assert order == ["prepare", "meanwhile", "answer"]
    os.close(answered)


class Log:
    """Takes what a process prints."""

    def __init__(self) -> None:
        self.said, self.closed = b"", False

    def feed(self, data: bytes) -> None:
        self.said += data

    def close(self) -> None:
        self.closed = True


def test_whose_answer_is_not_waited_for_hears_that_it_will_not_come() -> None:
    answers: list[Any] = []
    with closing(Pickled.of(jobs.make())) as source, WarmParent() as held:
        held.begin(source)
        held.outline()
        held.post("catch_up", 0, then=answers.append)
    assert isinstance(answers[0], WarmParentLost), "else a process that was to be forked would wait for ever to begin"


def test_who_takes_over_is_listened_to_although_the_one_before_died_at_once() -> None:
    logs: list[Log] = []
    answers: list[Any] = []

    def log() -> Any:
        logs.append(Log())
        return logs[-1]

    with selectors.DefaultSelector() as selector, closing(Pickled.of(jobs.make())) as source, WarmParent() as held:
        held.begin(source)
        held.outline()
        psutil.Process(held.process).kill()
        with pytest.raises(WarmParentLost):
            held.attach(Outputs(selector), log)
        assert held.is_lost
        with pytest.raises(WarmParentLost, match="is gone"):
            held.ask("catch_up", 0)
        described: Any = None
        held.succeed(Request(1, 1, (0,)), described, 0, (0, 0), answers.append)
        assert not held.is_lost
        psutil.Process(held.process).kill()
        (key,) = [key for key, _ in selector.select() if key.data is held]
        with pytest.raises(WarmParentLost):
            key.data.hear()
        assert isinstance(answers[0], WarmParentLost), "who waits for the answer hears of it too"
        assert not selector.get_map()
    assert [one.closed for one in logs] == [True, True]
