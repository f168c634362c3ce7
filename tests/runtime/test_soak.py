"""Random kills with a fixed seed: the bits stay, and so do memory, open files and processes."""

from __future__ import annotations

import gc
import random
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
import torch

import jobs
from faults import CORES, hash_of, undisturbed
from unisono.observe.progress import Silent
from unisono.runs.execution import execute
from unisono.runs.observation import Observation
from unisono.runtime.rules.request import Request
from unisono.runtime.rules.shutdown import ASKED, Shutdown
from waiting import until


@dataclass
class Killer:
    """Kills workers and loaders of this process at random instants."""

    kills: int
    records: list[Any]
    seed: int = 7
    done: int = 0
    files: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        random_ = random.Random(self.seed)
        own = psutil.Process()
        while self.done < self.kills and not self.ended.is_set():
            enough = len(self.records) + random_.choice((0, 1, 1, 2, 3, 5))
            until(lambda enough=enough: self.ended.is_set() or len(self.records) >= enough, "it trains")
            with suppress(psutil.Error):
                children = [child for child in own.children() if child.name() in ("unisono-worker", "unisono-loader")]
                if len(children) >= 3:
                    for victim in random_.sample(children, random_.choice([1, 1, 1, 2])):
                        victim.kill()
                        self.done += 1
                    self.files.append(own.num_fds())
                    self.bytes.append(own.memory_full_info().uss)
                    self.processes.append(len(children))


def soak(kills: int) -> Killer:
    job = jobs.make(jobs.Wild, steps=10**6, clip_norm=1.0)
    seen = Observation(job, Silent(), lambda: Shutdown(False, ASKED) if killer.done >= kills else None)
    killer = Killer(kills, seen.records)
    seen.display.message = lambda text: None  # type: ignore[method-assign]
    thread = threading.Thread(target=killer)
    thread.start()
    try:
        outcome = execute(job, Request(3, 1, CORES), seen)
    finally:
        killer.ended.set()
        thread.join()
    assert outcome.failure is None
    assert outcome.consistent
    assert hash_of(outcome) == undisturbed(jobs.make(jobs.Wild, steps=outcome.steps_done, clip_norm=1.0))[0]
    assert [record["step"] for record in seen.records] == list(range(1, outcome.steps_done + 1))
    return killer


def test_forty_random_kills() -> None:
    assert soak(40).done >= 40


@pytest.mark.thorough
def test_a_thousand_random_kills_leave_everything_where_it_was() -> None:
    gc.collect()
    before = torch.get_num_threads(), psutil.Process().num_fds()
    killer = soak(1000)
    early, late = slice(20, 70), slice(-50, None)
    assert max(killer.files[late]) <= max(killer.files[early]) + 2
    assert max(killer.processes[late]) <= max(killer.processes[early])
    assert max(killer.bytes[late]) <= 1.2 * max(killer.bytes[early]) + (16 << 20)
    gc.collect()
    assert (torch.get_num_threads(), psutil.Process().num_fds()) == before
