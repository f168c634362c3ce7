"""Workers with replicas of their own give the bits of the one model in the host's memory, whoever dies."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch.nn.functional as F
from torch import Tensor, nn

import cpu_as_device
import faults
import jobs
import unisono
from unisono import Job, api
from unisono.errors import UsageError
from unisono.frameworks.protocol.model import Model
from unisono.frameworks.pytorch.model import Adapter
from unisono.observe.progress import Silent
from unisono.runs.execution import execute
from unisono.runs.observation import Observation
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.rules.request import Request
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.model_state import ModelState
from unisono.runtime.supervisor.outcome import Outcome, raise_failure
from unisono.settings import Settings
from warm import host_for


def without_replicas(job: Job) -> Job:
    """A change of a job whose adapter has none."""
    Adapter.replica = Model.replica  # type: ignore[method-assign,assignment]
    return job


def told(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What records say of the result."""
    keep = ("step", "epoch", "loss", "samples", "accuracy", "gradient_norm", "learning_rate")
    return [{k: v for k, v in record.items() if k in keep or k.startswith("evaluation")} for record in records]


def run(job: Job, workers: int, **request: Any) -> tuple[Outcome, list[dict[str, Any]], list[str]]:
    """A run of workers with replicas."""
    outcome, records, messages = faults.run(job, workers, device="cpu", **request)
    raise_failure(outcome)
    return outcome, records, messages


PHASES = [
    "load", "loaded", "join", "microbatch", "exchange", "update", "updated", "stage", "staged", "compute", "commit"
]  # fmt: skip


@pytest.mark.few("loaded-1", "exchange-1", "updated-0", "staged-0")
@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("phase", PHASES)
def test_a_replica_may_die_at_any_time(tmp_path: Path, phase: str, slot: int) -> None:
    job = jobs.make(evaluation=partial(jobs.dataset, 40, 2), evaluate_every=3)
    expected, records = faults.undisturbed(job)
    number = {"load": -1, "loaded": 0, "join": 0, "commit": 3}.get(phase, 2)
    script = faults.Script(tmp_path, (faults.Fault(phase, number, slot), faults.Fault(phase, number + 1, slot)))
    outcome, found, _ = run(job, 2, phase=script, checkpoint_steps=1)
    assert faults.hash_of(outcome) == expected
    assert told(found) == told(records)
    assert script.struck or (slot == 1 and phase in ("stage", "staged")), "it did not die"


@pytest.mark.few("2")
@pytest.mark.parametrize("workers", [1, 2])
def test_all_replicas_may_die_at_once(tmp_path: Path, workers: int) -> None:
    job = jobs.make(optimizer=jobs.adamw, evaluation=partial(jobs.dataset, 40, 2), evaluate_every=3, schedule=jobs.warm)
    expected, records = faults.undisturbed(job)
    phases = ("update",) if workers == 1 else ("exchange", "leave")  # the second one does not come out of it alive
    deaths = tuple(faults.Fault(phase, number, slot) for number in (2, 5) for slot, phase in enumerate(phases))
    script = faults.Script(tmp_path, deaths)
    outcome, found, messages = run(job, workers, phase=script)
    assert faults.hash_of(outcome) == expected
    assert told(found) == told(records)
    assert script.struck >= 2
    assert any("its work goes on elsewhere" in message for message in messages)


AT_REST = -1
"""Instead of a number of records: once nobody works."""


@dataclass
class Asking(Observation):
    """Asks the run for something, once it has come so far.

    Attributes:
        requests: after how many records, and what.
    """

    requests: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.interrupted = self.look

    def control(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """See `Watcher`."""
        self.answer = answer

    def look(self) -> None:
        """The supervisor looks whether it is to stop, in each of its turns."""
        if self.requests and self._is_time(self.requests[0][0]):
            self.answers.append(self.answer(self.requests.pop(0)[1]))

    def _is_time(self, after: int) -> bool:
        children = psutil.Process().children(recursive=True) if after == AT_REST else ()
        return len(self.records) >= after and all(child.name() != "unisono-worker" for child in children)


def asked(job: Job, workers: int, *requests: tuple[int, dict[str, Any]]) -> tuple[Outcome, Asking]:
    """A run of workers with replicas that is asked for something."""
    seen = Asking(job, Silent(), requests=list(requests))
    request = Request(workers, 1, faults.CORES, device="cpu")
    outcome = execute(job, request, seen, False, host_for(job))
    raise_failure(outcome)
    assert len(seen.answers) == len(requests)
    return outcome, seen


def test_replicas_come_and_go() -> None:
    job = jobs.make(clip_norm=1.0, steps=30)
    expected, records = faults.undisturbed(job)
    outcome, seen = asked(job, 1, (3, {"resize": 3}), (12, {"resize": 1}), (18, {"resize": 2}))
    assert faults.hash_of(outcome) == expected
    assert told(seen.records) == told(records)


def test_replicas_end_where_patience_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No round is done after the last evaluation that counts, however fast the workers and slow the supervisor."""
    job = jobs.make(
        optimizer=jobs.adamw, evaluation=partial(jobs.dataset, 40, 2), evaluate_every=2, steps=40,
        best=("min", "loss"), patience=2,
    )  # fmt: skip
    one = unisono.train(job, out=tmp_path / "one", debug=True)
    script = faults.Script(tmp_path, (faults.Fault("updated", 4, 0), faults.Fault("staged", 8, 0)))

    def request_of(settings: Settings, **more: Any) -> Request:
        return replace(cpu_as_device.request_of(settings, **more), phase=script)

    monkeypatch.setattr(api, "request_of", request_of)
    two = unisono.train(job, out=tmp_path / "two", workers=2, device="cuda")
    assert one.manifest["reason"] == "patience"
    for name in ("reason", "steps_done", "best", "parameters_sha256"):
        assert two.manifest[name] == one.manifest[name]
    assert told(two.history) == told(one.history)
    assert script.struck


@pytest.mark.few("2")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_of_replicas_pauses(workers: int) -> None:
    job = jobs.make(clip_norm=1.0, steps=30, evaluation=partial(jobs.dataset, 40, 2), evaluate_every=4)
    expected, records = faults.undisturbed(job)
    pause, on = {"resize": 0}, {"resize": 3 - workers}
    outcome, seen = asked(job, workers, (3, pause), (AT_REST, on), (9, pause), (9, {"resize": 2}))  # once too early
    assert faults.hash_of(outcome) == expected
    assert told(seen.records) == told(records)


def test_a_run_of_replicas_stops_after_a_whole_round() -> None:
    outcome, seen = asked(jobs.make(steps=jobs.FOR_EVER), 2, (3, {"stop": True}))
    expected, records = faults.undisturbed(jobs.make(steps=outcome.steps_done))
    assert faults.hash_of(outcome) == expected
    assert told(seen.records) == told(records)


@pytest.mark.few("1", "3")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_replicas_gives_the_bits_of_the_one_model(workers: int) -> None:
    job = jobs.make(evaluation=partial(jobs.dataset, 40, 2), evaluate_every=4, metrics={"accuracy": jobs.accuracy})
    expected, records = faults.undisturbed(job)
    outcome, found, _ = run(job, workers)
    assert faults.hash_of(outcome) == expected
    assert told(found) == told(records)


def test_a_trace_of_replicas_is_that_of_the_one_model() -> None:
    """What `verify` compares."""
    job = jobs.make(jobs.Wild, optimizer=jobs.adamw)
    traces = [faults.run(job, workers, trace=True, device=device)[1] for workers, device in ((0, None), (2, "cpu"))]
    digests, found = ([record["digests"] for record in records] for records in traces)
    assert digests == found
    assert len(set(map(tuple, digests))) == 6


class InOrder:
    """A metric object whose values tell every output, the order in which they came, and how often."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.seen, self.sum = 0, 0.0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        for output, target in zip(outputs.tolist(), targets.tolist(), strict=True):
            self.seen += 1
            self.sum = 0.9 * self.sum + output[target]

    def compute(self) -> dict[str, float]:
        return {"seen": self.seen, "sum": self.sum}


MEASURED: dict[str, Any] = {
    "model": jobs.Wild, "optimizer": jobs.adamw, "evaluation": partial(jobs.dataset, 90, 2), "evaluate_every": 2,
    "metrics": {"in order": InOrder(), "accuracy": jobs.accuracy}, "schedule": jobs.plateau,
}  # fmt: skip
"""An evaluation of several waves after every other step: 2 + 3 rounds, of which the last three are its."""


@pytest.mark.few("2-4-compute-0", "3-3-commit-1")
@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("phase", ["compute", "microbatch", "commit"])
@pytest.mark.parametrize("round_", [2, 3, 4, 8])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_metric_objects_see_every_output_once_in_order(
    tmp_path: Path, workers: int, round_: int, phase: str, slot: int
) -> None:
    """Whoever dies in the middle of an evaluation: it goes on there."""
    job = jobs.make(**MEASURED)
    expected, records = faults.undisturbed(job)
    script = faults.Script(tmp_path, (faults.Fault(phase, round_, slot), faults.Fault(phase, round_ + 1, slot)))
    outcome, found, _ = run(job, workers, phase=script)
    assert faults.hash_of(outcome) == expected
    assert told(found) == told(records)
    assert [record["evaluation/in order/seen"] for record in found if "loss" not in record] == [90] * 3
    assert script.struck or slot >= workers


class Normed(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(jobs.FEATURES, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, jobs.CLASSES))


@pytest.mark.few("changes0")
@pytest.mark.parametrize("changes", [
    {"optimizer": jobs.adamw, "clip_norm": 0.5, "model": Normed, "batch_size": 30}, {"schedule": jobs.plateau},
])  # fmt: skip
def test_buffers_clipping_uneven_batches_and_schedules(changes: dict[str, Any]) -> None:
    job = jobs.make(evaluation=partial(jobs.dataset, 40, 2), evaluate_every=2, **changes)
    expected, records = faults.undisturbed(job)
    outcome, found, _ = run(job, 3)
    assert faults.hash_of(outcome) == expected
    assert told(found) == told(records)


@dataclass
class Keeping(Observation):
    """Keeps each copy, and may begin with one.

    Attributes:
        first: steps, parameters and the optimizers' state to begin with.
        copies: the same of each copy, by steps.
    """

    first: tuple[int, dict[str, Any], dict[str, Any]] | None = None
    copies: dict[int, tuple[int, dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    def restore(self, described: Described, state: HostState) -> tuple[int, bool]:
        """See `Watcher`."""
        if self.first is None:
            return 0, True
        steps, parameters, optimizer = self.first
        state.restore(parameters, optimizer, steps)
        return steps, True

    def copy(self, described: Described, state: ModelState, rounds: int) -> bool:
        """See `Watcher`."""
        kept = [
            {k: v.copy() for k, v in found.arrays.items()} for found in (state.saved(rounds), state.optimizer(rounds))
        ]
        self.copies[rounds] = rounds, kept[0], kept[1]
        return True


def test_either_path_goes_on_from_the_others_checkpoints() -> None:
    job = jobs.make(optimizer=jobs.adamw)
    expected, _ = faults.undisturbed(job)
    hashes = []
    for device in (None, "cpu"):
        request = Request(2, 1, faults.CORES, device=device, checkpoint_steps=2)
        seen = Keeping(job, Silent())
        hashes.append(faults.hash_of(execute(job, request, seen, False, host_for(job))))
        assert {2, 4} <= seen.copies.keys()
        other = Request(2, 1, faults.CORES, device=None if device else "cpu")
        resumed = Keeping(job, Silent(), first=seen.copies[4])
        hashes.append(faults.hash_of(execute(job, other, resumed, False, host_for(job))))
        assert [record["step"] for record in resumed.records] == [5, 6]
    assert hashes == [expected] * 4


def spoilt(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that is not finite once the model has learnt a little."""
    loss = F.cross_entropy(outputs, targets)
    return loss if loss.item() > 1.3 else loss * float("nan")


def test_a_microbatch_that_fails_ends_the_run_with_its_place() -> None:
    job = jobs.make(loss=spoilt, steps=40)
    debugged, records, _ = faults.run(job)
    assert debugged.failure
    outcome, found, _ = faults.run(job, 2, device="cpu")
    assert outcome.failure
    assert records
    assert outcome.failure.message.partition("(worker")[2][3:] == debugged.failure.message.partition("(worker")[2][3:]
    assert told(found) == told(records)


def test_a_microbatch_that_always_kills_its_worker_ends_the_run(tmp_path: Path) -> None:
    deaths = tuple(faults.Fault("microbatch", 2, 0, 1, signal.SIGSEGV) for _ in range(3))
    outcome, found, _ = faults.run(jobs.make(), 2, device="cpu", phase=faults.Script(tmp_path, deaths))
    assert outcome.failure
    assert "step 3, microbatch 1" in outcome.failure.message
    assert [record["step"] for record in found] == [1, 2]


def test_workers_that_own_devices_are_those_of_one_host() -> None:
    with pytest.raises(UsageError, match=r"device='cpu' and several hosts\. Train on one of them, or leave the device"):
        run(jobs.make(), 2, several_hosts=True)


def test_a_framework_without_replicas_says_so() -> None:
    outcome, *_ = faults.run(jobs.make(), 2, device="cpu", change=without_replicas)
    assert outcome.failure
    assert "has none. Train without `--device`" in outcome.failure.message


@pytest.mark.thorough
def test_a_survivor_that_does_not_come_to_rest_is_ended(tmp_path: Path) -> None:
    job = jobs.make()
    expected, records = faults.undisturbed(job)
    script = faults.Script(
        tmp_path, (faults.Fault("exchange", 2, 0), faults.Fault("leave", 2, 1, None, faults.DEADLOCK))
    )
    outcome, found, messages = run(job, 2, phase=script, stall_seconds=1000.0)
    assert any("does not leave its group, and is ended" in message for message in messages)
    assert faults.hash_of(outcome) == expected
    assert told(found) == told(records)
