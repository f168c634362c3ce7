"""Any worker may die at any instant: no step is lost or repeated, and the bits stay the same."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import jobs
from faults import CORES, DEADLOCK, KILLS, LOOP, Fault, Handicap, Script, Starved, hash_of, run, undisturbed
from unisono.runtime.supervisor.delays import threads

PHASES = ("compute", "microbatch", "update", "saved", "marked", "updated", "commit", "stamp", "publish")


def nadam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.NAdam([p for p in model.parameters() if p.requires_grad], lr=0.01)


def muon(model: nn.Module) -> list[torch.optim.Optimizer]:
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        torch.optim.Muon([p for p in trained if p.ndim == 2], lr=0.01),
        torch.optim.SGD([p for p in trained if p.ndim != 2], lr=0.01, momentum=0.9),
    ]


class Whole(torch.optim.Adam):
    """A class that Unisono does not know."""


def whole(model: nn.Module) -> torch.optim.Optimizer:
    return Whole([p for p in model.parameters() if p.requires_grad], lr=0.01)


class Big(nn.Module):
    """Wild's troubles, and enough elements for several chunks a slot."""

    def __init__(self) -> None:
        super().__init__()
        self.wild = jobs.Wild()
        self.wide = nn.Linear(jobs.FEATURES, 60_000)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.wild(inputs) + self.wide(inputs).view(len(inputs), -1, jobs.CLASSES).mean(1)


def everywhere(rounds: int, clipped: bool) -> tuple[Fault, ...]:
    """A death in every phase of every slot, one a round, and now and then of two at once."""
    phases = (*PHASES[:2], "publish_norms", *PHASES[2:]) if clipped else PHASES
    places = [(phase, slot) for phase in phases for slot in (0, 1, 2)]
    faults = [
        Fault(phase, 1 + index % rounds, slot, signal=KILLS[index % 4]) for index, (phase, slot) in enumerate(places)
    ]
    return tuple(faults)


@pytest.mark.few("adamw", "whole")
@pytest.mark.parametrize(
    ("optimizer", "model", "changes"),
    [
        (jobs.sgd, Big, {"schedule": jobs.warm}),
        (jobs.adamw, Big, {"clip_norm": 0.5}),
        (nadam, jobs.Wild, {"schedule": jobs.warm, "clip_norm": 0.5}),
        (muon, jobs.Wild, {}),
        (whole, jobs.Wild, {"clip_norm": 0.5}),
    ],
    ids=["sgd", "adamw", "nadam", "muon", "whole"],
)
def test_a_death_in_every_phase_of_every_slot(
    tmp_path: Path, optimizer: Any, model: Any, changes: dict[str, Any]
) -> None:
    job = jobs.make(model, optimizer=optimizer, steps=32, **changes)
    script = Script(tmp_path, everywhere(29, "clip_norm" in changes))
    expected, records = undisturbed(job)
    outcome, found, messages = run(job, 3, phase=script)
    assert outcome.failure is None
    assert hash_of(outcome) == expected
    assert [record["loss"] for record in found] == [record["loss"] for record in records]
    assert script.struck >= 20
    assert len(messages) >= script.struck


def test_all_workers_die_at_once_and_replacements_go_on(tmp_path: Path) -> None:
    job = jobs.make(steps=12)
    faults = (*(Fault("microbatch", 4, slot) for slot in range(3)), Fault("marked", 8, 0), Fault("updated", 8, 1))
    outcome, _, _ = run(job, 3, phase=Script(tmp_path, faults))
    assert hash_of(outcome) == undisturbed(job)[0]


class Odd:
    """A metric object that needs all samples in order."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.value = 0.0

    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        for value in outputs.sum(1).tolist():
            self.value = self.value * 0.5 + value

    def compute(self) -> float:
        return self.value


def test_deaths_while_evaluating(tmp_path: Path) -> None:
    job = jobs.make(
        jobs.Wild, steps=6, evaluate_every=2, evaluation=jobs.dataset, schedule=jobs.plateau,
        metrics={"accuracy": jobs.accuracy, "odd": Odd()},
    )  # fmt: skip
    expected, records = undisturbed(job)
    phases = ("compute", "microbatch", "commit", "stamp", "publish")
    faults = tuple(Fault(phase, 3 + index, slot) for index, phase in enumerate(phases) for slot in (0, 1))
    outcome, found, _ = run(job, 2, phase=Script(tmp_path, faults))
    assert hash_of(outcome) == expected
    evaluations = [record for record in records if "loss" not in record]
    assert [record for record in found if "loss" not in record] == evaluations
    assert [r["learning_rate"] for r in found if "loss" in r] == [r["learning_rate"] for r in records if "loss" in r]


def test_poison_is_named_after_three_deaths_of_its_own(tmp_path: Path) -> None:
    faults = tuple(Fault("microbatch", 5, 1, 7, signal.SIGSEGV) for _ in range(9))  # whoever tries
    outcome, _, messages = run(jobs.make(steps=12), 2, phase=Script(tmp_path, faults))
    assert outcome.failure is not None
    assert "SIGSEGV, 3 times in a row at the same place (step 6, microbatch 7)" in outcome.failure.message
    assert outcome.steps_done == 5
    assert outcome.consistent
    assert len([text for text in messages if "SIGSEGV" in text]) >= 3


@pytest.mark.few("9")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_what_comes_from_outside_is_no_poison(tmp_path: Path, number: int) -> None:
    job = jobs.make(steps=12)
    faults = tuple(Fault("microbatch", 5, 1, 7, number) for _ in range(5))
    outcome, _, _ = run(job, 2, phase=Script(tmp_path, faults), stall_seconds=1.0)
    assert hash_of(outcome) == undisturbed(job)[0]


@pytest.mark.parametrize("number", [LOOP, DEADLOCK, signal.SIGSTOP], ids=["loop", "deadlock", "stopped"])
def test_a_hung_worker_is_replaced_and_its_stack_kept(tmp_path: Path, number: int) -> None:
    job = jobs.make(steps=12)
    script = Script(tmp_path, (Fault("microbatch", 5, 1, 7, number),))
    outcome, _, messages = run(job, 2, phase=script, stall_seconds=1.0)
    assert hash_of(outcome) == undisturbed(job)[0]
    assert any("worker 1 makes no progress" in text for text in messages)
    if number != signal.SIGSTOP:
        assert any("faults.py" in text for text in messages), "its Python stack"


class NeverFlushed:
    def flush(self) -> None:
        threading.Event().wait()


def stuck_at_its_end(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy; a worker's output is never flushed from then on."""
    if Path("/proc/self/comm").read_text() == "unisono-worker\n":
        sys.stdout = NeverFlushed()  # type: ignore[assignment]
    return nn.functional.cross_entropy(outputs, targets)


def test_a_worker_that_does_not_leave_when_the_run_is_over_is_ended() -> None:
    outcome, _, messages = run(jobs.make(loss=stuck_at_its_end, steps=3), 1, stall_seconds=1.0)
    assert [text for text in messages if text.startswith("worker")] == [
        "worker 0 makes no progress; its Python stack goes to logs/."
    ]
    assert hash_of(outcome) == undisturbed(jobs.make(steps=3))[0]


def test_a_worker_that_gets_no_core_is_not_hung(tmp_path: Path) -> None:
    if any(math.isnan(thread.ran) for _, thread in threads(os.getpid())):
        pytest.skip("this kernel does not count how long threads wait for a core")
    job = jobs.make(steps=8)
    starved = Starved(tmp_path / "done", CORES[-1], seconds=4.0)
    with subprocess.Popen(starved.rival) as rival:
        try:
            outcome, _, messages = run(job, 2, phase=starved, stall_seconds=2.0)
        finally:
            rival.kill()
    assert not messages
    assert starved.done.exists()
    assert hash_of(outcome) == undisturbed(job)[0]


@dataclass(frozen=True)
class Handicapped:
    """Cross entropy with ten times as much work where a handicap is; a file for each pace holds a byte a microbatch."""

    folder: Path

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        sum(range(400_000 if Handicap.slow else 40_000))
        with (self.folder / ("slow" if Handicap.slow else "fast")).open("ab") as file:
            file.write(b".")
        return nn.functional.cross_entropy(outputs, targets)


def test_a_slow_worker_gets_fewer_microbatches_and_is_named(tmp_path: Path) -> None:
    job = jobs.make(steps=30, loss=Handicapped(tmp_path))
    outcome, records, messages = run(job, 2, phase=Handicap(), stall_seconds=5.0)
    assert hash_of(outcome) == undisturbed(jobs.make(steps=30))[0]
    assert not messages, "slow is not dead"
    assert any(record.get("slow_workers", {}).get("1", 0) > 1.5 for record in records)
    slow, fast = ((tmp_path / pace).stat().st_size for pace in ("slow", "fast"))
    assert slow < fast / 1.5, "an even share would be as many"
