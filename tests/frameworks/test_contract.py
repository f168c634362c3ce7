"""One contract for every framework: the same few jobs, made by each framework's kit, must keep every promise."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import unisono
from faults import CORES, Fault, Script, hash_of, run, undisturbed
from frameworks.kits.samples import Pairs, arrays
from unisono.checkpoint import store
from unisono.hosts.sample_bytes import decoded, encoded
from unisono.hosts.snapshot import state_digest
from unisono.memory.segment import Segment
from unisono.runtime.loader.samples import RemoteData, samples_at
from unisono.runtime.preparation.prepare import prepare
from unisono.runtime.preparation.probe import probed
from unisono.runtime.processes.profiler import measured
from unisono.runtime.rules.request import Request
from unisono.runtime.state.host_state import HostState


class Noisy(Pairs):
    """The framework's own arrays where it has some for samples, with random augmentation."""

    def __init__(self, functions: Any) -> None:
        super().__init__()
        self.functions, self.kind = functions, "nd" if "mxnet" in type(functions).__module__ else ""

    def __getitem__(self, index: int) -> Any:
        inputs, target = super().__getitem__(index)
        noise = np.random.normal(size=inputs.shape).astype("float32")
        return self.functions.from_array(inputs + noise, self.kind), target


class Elsewhere(RemoteData):
    """Data as another host gives them."""

    def __init__(self, functions: Any) -> None:
        self.data, self.functions = Noisy(functions), functions

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        return self.samples([index], None)[0]

    def samples(self, indices: Sequence[int], key_of: Callable[[int], int] | None) -> list[Any]:
        found: list[Any] = samples_at(self.data, indices, key_of, self.functions)
        return decoded(encoded(found, self.functions), self.functions)  # type: ignore[no-any-return]


def numbers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without times."""
    dropped = ("seconds", "samples_per_second", "slow_workers")
    return [{k: v for k, v in record.items() if not any(part in k for part in dropped)} for record in records]


def assert_one_result(job: unisono.Job, workers: tuple[int, ...]) -> list[dict[str, Any]]:
    """The same parameters, optimizer state and records in one process and at each number of workers."""
    expected, records = undisturbed(job)
    for count in workers:
        outcome, found, _ = run(job, count)
        assert outcome.failure is None, outcome.failure
        assert hash_of(outcome) == expected, count
        assert numbers(found) == numbers(records), count
    return records


def test_same_bits_on_any_number_of_workers(kit: Any) -> None:
    """Dropout, batch normalization, short batches, clipping, evaluation."""
    job = kit.make(
        "wild", clip_norm=0.5, evaluation=lambda: Pairs(50, 2), evaluate_every=3, metrics={"accuracy": kit.accuracy}
    )
    records = assert_one_result(job, (3,))
    assert any(record.get("gradient_norm", 0) > 0.5 for record in records)
    assert [record["step"] for record in records if "evaluation/accuracy" in record] == [3, 6]


def test_samples_that_another_host_has_read_give_the_same_bits(kit: Any) -> None:
    functions = importlib.import_module(f"unisono.frameworks.{kit.__name__.rpartition('.')[2]}.data").Data()
    expected, _ = undisturbed(kit.make(data=Noisy(functions)))
    assert undisturbed(kit.make(data=Elsewhere(functions)))[0] == expected


def test_a_microbatch_of_twice_the_samples_is_measured(kit: Any) -> None:
    """By which a run finds out that fewer microbatches would be faster."""
    prepared = prepare(kit.make("wild"), Request(1, 1, CORES))
    state = HostState(prepared.layout, Segment.create(prepared.layout.segment))
    prepared.initialise(state)
    prepared.bind(state)
    assert min(measured(prepared)) > 0


@pytest.mark.few("jax-adam", "keras-adam", "mxnet-adam", "pytorch-adam", "pytorch-unknown")
@pytest.mark.parametrize("optimizer", ["adam", "unknown"])
def test_what_hosts_compare_is_the_same_each_time_and_leaves_no_trace(kit: Any, optimizer: str) -> None:
    found = []
    for _ in range(2):
        prepared = prepare(kit.make("wild", optimizer=kit.OPTIMIZERS[optimizer]), Request(1, 1, CORES))
        state = HostState(prepared.layout, Segment.create(prepared.layout.segment))
        prepared.initialise(state)
        before = state_digest(state, 0)
        found.append(probed(prepared, state))
        assert state_digest(state, 0) == before
        assert not state.segment["table"].any()
    assert found[0] == found[1]
    description = prepared.layout.description
    trained = [spec.name for spec, owner in zip(description.parameters, description.owners, strict=True) if owner == 0]
    wanted = [f"the {what} of {name!r}" for what in ("gradient", "update") for name in trained]
    wanted += ["the loss", *(f"the buffer {spec.name!r} after it" for spec in description.buffers)]
    wanted += [f"the first value of {spec.name!r}" for spec in description.parameters]
    assert sorted(found[0]) == sorted(wanted)


@pytest.mark.few("pytorch-unknown")
@pytest.mark.parametrize("optimizer", ["adam", "unknown"])
def test_same_bits_with_every_kind_of_optimizer(kit: Any, optimizer: str) -> None:
    assert_one_result(kit.make("wild", optimizer=kit.OPTIMIZERS[optimizer]), (2, 3))


@pytest.mark.few("pytorch")
def test_weighted_losses_and_odd_microbatches(kit: Any) -> None:
    assert_one_result(kit.make(loss=kit.weighted_loss, batch_size=26, microbatches=7), (3,))


def test_schedules_follow_the_global_step(kit: Any) -> None:
    records = assert_one_result(kit.make(**kit.SCHEDULED), (2,))
    rates = [record["learning_rate"] for record in records]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


@pytest.mark.few("pytorch")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core only")
def test_bits_do_not_depend_on_the_number_of_cores(kit: Any) -> None:
    job = kit.make("wild", optimizer=kit.OPTIMIZERS["adam"], steps=4)
    expected, _ = undisturbed(job)
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        outcome, _, _ = run(job, 2)
    finally:
        os.sched_setaffinity(0, usable)
    assert hash_of(outcome) == expected


@pytest.mark.few("jax-adam", "keras-adam", "mxnet-adam", "pytorch-adam")
@pytest.mark.parametrize("optimizer", ["adam", "unknown"])
def test_deaths_cost_no_bit(kit: Any, tmp_path: Path, optimizer: str) -> None:
    job = kit.make("wild", steps=12, optimizer=kit.OPTIMIZERS[optimizer], clip_norm=0.5)
    phases = ("compute", "microbatch", "publish_norms", "update", "saved", "marked", "updated", "commit", "stamp")
    kinds = (signal.SIGKILL, signal.SIGSEGV)
    faults = tuple(Fault(phase, 1 + n, n % 2, signal=kinds[n % 2]) for n, phase in enumerate(phases))
    script = Script(tmp_path, faults)
    outcome, _, _ = run(job, 2, phase=script)
    assert outcome.failure is None, outcome.failure
    assert hash_of(outcome) == undisturbed(job)[0]
    assert script.struck >= 5


@pytest.mark.few("jax-cnn-adam", "keras-cnn-adam", "mxnet-cnn-adam", "pytorch-cnn-adam")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_it_agrees_with_the_frameworks_own_loop(kit: Any, model: str, optimizer: str) -> None:
    job = kit.make(model, optimizer=kit.OPTIMIZERS[optimizer], batch_size=100, steps=50, order="sequential")
    outcome, _, _ = run(job)
    assert outcome.failure is None, outcome.failure
    ours = outcome.state.saved(50).arrays
    theirs = kit.plain(model, optimizer, 50)
    assert set(ours) == set(theirs), "the framework's own names"
    for name, array in theirs.items():
        difference = np.linalg.norm(ours[name].astype("float64") - array) / np.linalg.norm(array)
        assert difference <= 1e-5, name


def test_predict_is_what_evaluation_metrics_see(kit: Any) -> None:
    job = kit.make(evaluation=lambda: Pairs(50, 2), metrics={"accuracy": kit.accuracy}, predict=kit.first_class)
    records = assert_one_result(job, (2,))
    share = float(np.mean(arrays(50, 2)[1] == 0))
    assert records[-1]["evaluation/accuracy"] == pytest.approx(share)
    assert "accuracy" not in records[0], "a training batch's outputs are not those that the metric is for"


def test_a_run_resumes_at_another_number_of_workers_and_gives_its_model(kit: Any, tmp_path: Path) -> None:
    evaluated: dict[str, Any] = {"evaluation": lambda: Pairs(50, 2), "metrics": {"accuracy": kit.accuracy}}
    job = kit.make("wild", optimizer=kit.OPTIMIZERS["adam"], **evaluated)
    whole = unisono.train(job, out=tmp_path / "whole", debug=True)
    short = kit.make("wild", optimizer=kit.OPTIMIZERS["adam"], **{**evaluated, "steps": 4})
    unisono.train(short, out=tmp_path / "run", workers=2)
    resumed = unisono.train(job, resume=tmp_path / "run", workers=3)
    assert resumed.parameters_sha256 == whole.parameters_sha256
    for name in (store.PARAMETERS, store.OPTIMIZER):
        files = [store.at(folder / "checkpoints", 6) / name for folder in (whole.directory, resumed.directory)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert load_file(resumed.directory / "parameters.safetensors")
    inputs, targets = arrays(50, 2)
    right = float(np.mean(kit.outputs_of(resumed.model(), inputs).argmax(1) == targets))
    assert right == pytest.approx(resumed.history[-1]["evaluation/accuracy"])
    answering = unisono.open(resumed.directory, replace(job, infer=kit.outputs_of))
    (answer,) = answering.infer([inputs])
    assert np.array_equal(answer, kit.outputs_of(resumed.model(), inputs))  # evaluation mode: no dropout
    assert unisono.evaluate(job, resumed.directory, workers=2)["evaluation/accuracy"] == pytest.approx(right)


class Ignored(Pairs):
    """Three batches of 32; of the second none counts in the kits' weighted loss.

    Args:
        left_out: leave it out.
    """

    def __init__(self, left_out: bool = False) -> None:
        super().__init__(96)
        self.targets[32:64] = 0
        if left_out:
            self.inputs, self.targets = np.delete(self.inputs, slice(32, 64), 0), np.delete(self.targets, slice(32, 64))


@pytest.mark.few("jax-adam", "keras-adam", "mxnet-adam", "pytorch-adam", "pytorch-unknown")
@pytest.mark.parametrize("optimizer", ["adam", "unknown"])
def test_a_step_of_weight_0_changes_nothing(kit: Any, optimizer: str) -> None:
    """The next one goes on as if it had not been."""
    fields = {"loss": kit.weighted_loss, "optimizer": kit.OPTIMIZERS[optimizer], "order": "sequential"}
    expected, _, _ = run(kit.make("mlp", **{**fields, "data": lambda: Ignored(True), "steps": 2}))
    for workers in (0, 2):
        outcome, records, _ = run(kit.make("mlp", **{**fields, "data": Ignored, "steps": 3}), workers)
        assert outcome.failure is None, outcome.failure
        assert [record.get("skipped") for record in records] == [None, True, None]
        assert hash_of(outcome) == hash_of(expected)


def test_nan_names_the_way_out(kit: Any) -> None:
    outcome, _, _ = run(kit.make("mlp", loss=lambda a, b: kit.weighted_loss(a, b)[0] * float("nan")))
    assert outcome.failure is not None
    assert "If no target" in outcome.failure.message
