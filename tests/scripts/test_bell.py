"""The bell of a script's workers: no message waits for another ring."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from script_runs import run
from unisono.runtime.processes.channel import Channel
from unisono.scripts.pytorch import bell as bells
from unisono.scripts.pytorch.bell import Bell
from unisono.scripts.pytorch.spaces import Space

ASLEEP = """
import os, socket
from unisono.runtime.processes.channel import Channel
from unisono.scripts.pytorch import bell as bells
from unisono.scripts.pytorch.spaces import Space

bells._LOOK_SECONDS = 1e6
space = Space.create(1, 1)
bell = bells.Bell(space)
channels, workers = [], []
for _ in range(2):
    mine, theirs = socket.socketpair()
    worker = os.fork()
    if not worker:
        mine.close()
        channel, own = Channel(theirs), bells.Bell(space)
        while True:
            own.wait(channel)
            number, _ = channel.receive()
            channel.send(number + 1)
            if number < 0:
                os._exit(0)
    theirs.close()
    channels.append(Channel(mine))
    workers.append(worker)
for number in range(300):
    asked = channels if number % 3 else channels[1:]  # the other is woken for nothing
    for channel in asked:
        channel.send(number)
    bell.ring()
    for channel in asked:
        assert channel.receive()[0] == number + 1
for channel, worker in zip(channels, workers):
    channel.send(-1)
    bell.ring()
    assert channel.receive()[0] == 0
    assert os.waitpid(worker, 0) == (worker, 0)
"""


def test_messages_are_heard_whoever_is_asleep(tmp_path: Path) -> None:
    run(ASLEEP, tmp_path)


def test_a_bell_that_rings_as_somebody_falls_asleep_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bells, "_LOOK_SECONDS", 1e6)
    mine, theirs = map(Channel, socket.socketpair())
    space = Space.create(1, 1)
    bell, own = Bell(space), Bell(space)
    get = own._words.get
    said: list[int] = []

    def late(index: int) -> int:
        if not said:
            said.append(index)
            mine.send("a message")
            bell.ring()
        return get(index)

    monkeypatch.setattr(own._words, "get", late)
    own.wait(theirs)
    assert theirs.receive()[0] == "a message"
    for each in (mine, theirs, space):
        each.close()


def test_a_closed_channel_is_noticed() -> None:
    mine, theirs = socket.socketpair()
    mine.close()
    channel, space = Channel(theirs), Space.create(1, 1)
    Bell(space).wait(channel)
    with pytest.raises(EOFError):
        channel.receive()
    channel.close()
    space.close()
