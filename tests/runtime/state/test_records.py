"""What a step's record says of where its time went."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import jobs
from faults import run
from products import host_state
from unisono.runtime.rules.plan import Plan
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import RECORDS
from unisono.runtime.state.records import Records, merged
from unisono.runtime.worker import microbatch as microbatches
from unisono.runtime.worker import round_record, slot


class Clock:
    """Time passes where the job says so."""

    now = 0.0


class SlowToRead:
    """Samples that take a second each to read."""

    def __init__(self) -> None:
        self.samples = jobs.dataset()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        Clock.now += 1.0
        return self.samples[index]


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    Clock.now += 0.5
    return torch.nn.functional.cross_entropy(outputs, targets)


def test_waiting_for_samples_is_told_apart_from_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (microbatches, round_record, slot):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: Clock.now))
    _, records, _ = run(jobs.make(steps=3, data=SlowToRead(), loss=loss, drop_last=True))
    spent = [[sum(record[f"{part}_seconds"]) for part in ("data", "compute")] for record in records]
    assert spent == [[32.0, 4.0]] * 3  # 32 samples, 8 microbatches
    assert [record["step_seconds"] for record in records] == [36.0] * 3


def entry(**changes: Any) -> dict[str, Any]:
    """What a slot leaves of a step."""
    return {"round_seconds": 0.5, "times": [0.25, 0.125, 0.0625, 0.03125], **changes}


def test_the_slots_records_of_a_step_become_one() -> None:
    other = entry(round_seconds=9.0, times=[1.0, 2.0, 3.0, 4.0])
    record = merged([entry(step=3, loss=0.5, samples=30, slots=2), other], {1: 2.5})
    assert record == {
        "step": 3, "loss": 0.5, "samples_per_second": 60.0, "step_seconds": 0.5,
        "compute_seconds": [0.25, 1.0], "data_seconds": [0.125, 2.0], "wait_seconds": [0.0625, 3.0],
        "update_seconds": [0.03125, 4.0], "slow_workers": {"1": 2.5},
    }  # fmt: skip
    evaluation = merged([entry(step=3, slots=2, **{"evaluation/loss": 0.5}), other], {1: 2.5})
    assert evaluation == {"step": 3, "evaluation/loss": 0.5}


def test_a_wave_that_ends_nothing_leaves_its_events_if_there_are_some() -> None:
    assert merged([entry(slots=2), entry()], {}) is None
    assert merged([entry(slots=2, events=[]), entry(events=[])], {}) is None
    assert merged([entry(slots=2), entry(events=[1])], {}) == {"events": [[], [1]]}


def left(state: HostState, slot: int, number: int, record: dict[str, Any]) -> None:
    """Leave a record as a slot does."""
    data = json.dumps(record).encode()
    state.segment["records"][slot, number % RECORDS, : len(data)] = list(data)
    state.segment["record_lengths"][slot, number % RECORDS] = len(data)


def test_records_are_handed_on_once_in_order_and_their_entries_given_free() -> None:
    with host_state(1, 3, 4) as state:
        state.begin(3)
        records, told = Records(state, 3), []
        state.segment["pace"][:3] = 1.0, 4.0, 9.0  # the third is nobody's any more
        for number in range(3, 3 + RECORDS):
            state.plans.stamp(Plan(number, (0, 2, 4), (0, 1)))
            records.drain(told.append)
            assert len(told) == number - 3, "the round in force is not over"
            for slot in range(2):
                more = {"step": number, "samples": 8, "events": [number]} if number != 5 else {"events": [slot]}
                left(state, slot, number, entry(slots=2, **more))
                state.segment["committed"][slot, 0] = number + 1
            if number == 4:
                assert records.latest is not None
                assert records.latest[0] == 4
                assert records.latest[1]["step"] == 3
                assert "events" not in records.latest[1]
        state.plans.stamp(Plan(3 + RECORDS, (0, 2, 4), (0, 1)))
        records.drain(told.append)
        records.drain(told.append)
        assert [record.get("step") for record in told] == [3, 4, None, *range(6, 3 + RECORDS)]
        assert told[0]["slow_workers"] == {"1": 4.0}
        assert told[2] == {"events": [[0], [1]]}
        assert state.control.get(Control.DRAINED) == 3 + RECORDS


def test_a_pipe_s_pace_blames_no_worker() -> None:
    with host_state(2, 2, 4) as state:
        state.begin(0)
        told: list[dict[str, Any]] = []
        state.segment["pace"][:2] = 1.0, 4.0
        plan = Plan(0, (0, 2, 4), (0, 1, 2, 3), stages=2)
        for slot in range(4):
            left(state, slot, 0, entry(slots=4, step=0, samples=8))
        state.plans.stamp(plan)
        state.segment["committed"][:4, 0] = 1
        state.plans.stamp(replace(plan, round=1))
        Records(state).drain(told.append)
        assert "slow_workers" not in told[0]
        assert len(told[0]["compute_seconds"]) == 4
