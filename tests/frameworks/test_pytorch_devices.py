"""Passes and replicas on a device: the bits of the CPU, nothing fetched in a pass, a round's rows in one transfer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from paths import PYTHONPATH
from waiting import limit

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import backend_registration

import faults
import jobs
from frameworks import away
from frameworks.on_device import CASES
from frameworks.test_pytorch_replicas import JOBS
from frameworks.test_pytorch_replicas import told as told_of
from unisono import Job
from unisono.errors import UsageError
from unisono.frameworks.protocol.device import DeviceFailed
from unisono.frameworks.pytorch import devices
from unisono.frameworks.pytorch.model import Adapter
from unisono.frameworks.pytorch.replicas.device_errors import check_refusals
from unisono.runtime.supervisor.outcome import raise_failure

HAS_PYTHON_BACKENDS = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


@cache
def told() -> dict[str, str]:
    """What went wrong in each case, in a process of its own: a device cannot be taken back."""
    done = subprocess.run(
        [sys.executable, "-m", "frameworks.on_device"], stdout=subprocess.PIPE, text=True, timeout=limit(), check=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


pytestmark = pytest.mark.skipif(
    not HAS_PYTHON_BACKENDS, reason="this PyTorch has no devices that are written in Python"
)


@pytest.mark.parametrize("case", CASES)
def test_on_a_device(case: str) -> None:
    assert told()[case] == ""


class Begun:
    """A change of a job after which no process can use the device that a child of its own has not begun: as where the
    job's code has begun CUDA.

    Args:
        times: in how many processes that look at it.
        folder: where that is noted.
    """

    def __init__(self, times: int, folder: Path) -> None:
        self._times, self._folder = times, folder

    def __call__(self, job: Job) -> Job:
        Adapter.fingerprint = self._fingerprint  # type: ignore[method-assign]
        return away.there(job)

    def _fingerprint(self, device: str) -> dict[str, str]:
        count = len(list(self._folder.iterdir()))
        (self._folder / str(count)).touch()
        if count < self._times:
            raise UsageError("begun elsewhere")
        return {"device": device}


@pytest.mark.thorough
def test_where_the_job_has_begun_the_device_each_process_makes_the_job(tmp_path: Path) -> None:
    expected, _ = faults.undisturbed(jobs.make())
    outcome, _, _ = faults.run(jobs.make(), 2, device="away", change=Begun(1, tmp_path))
    raise_failure(outcome)
    assert faults.hash_of(outcome) == expected
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.thorough
def test_a_device_that_cannot_be_begun_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="begun elsewhere"):
        faults.run(jobs.make(), 2, device="away", change=Begun(9, tmp_path))


passes: list[torch.Tensor] = []
"""The outputs of this process's passes; a worker rehearses the first."""


class Full:
    """A loss for which a GPU lacks memory, as PyTorch says it: once after a process's first pass, or always.

    Args:
        folder: where it notes that.
        always: whether it happens again and again.
    """

    def __init__(self, folder: Path, always: bool) -> None:
        self._note, self._always = folder / "full", always

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(outputs, targets)
        passes.append(outputs.detach())
        if self._always or (len(passes) > 1 and not self._note.exists()):
            self._note.touch()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return loss


def test_a_worker_whose_gpu_fails_dies_of_it_and_the_run_goes_on(tmp_path: Path) -> None:
    expected, _ = faults.undisturbed(jobs.make())
    job = jobs.make(loss=Full(tmp_path, always=False))
    outcome, _, messages = faults.run(job, 2, device="away", change=away.there)
    raise_failure(outcome)
    assert faults.hash_of(outcome) == expected
    assert [message for message in messages if "has lost its GPU: CUDA out of memory" in message]


class Gone:
    """A change of a job after which the device of whoever first computes a microbatch of step 4 is gone for good.

    Args:
        folder: where that is noted.
    """

    def __init__(self, folder: Path) -> None:
        self._note = folder / "gone"

    def __call__(self, job: Job) -> Job:
        devices.begun = self._begun
        return away.there(job)

    def _begun(self, name: str) -> torch.device:
        if self._note.exists():
            raise UsageError("no CUDA-capable device is detected")
        return torch.device(name)

    def phase(self, phase: str, round_: int, slot: int, at: int) -> None:
        """See `Request.phase`."""
        if (phase, round_) == ("microbatch", 3) and not self._note.exists():
            self._note.touch()
            raise DeviceFailed("CUDA error: the launch failed")


@pytest.mark.few("2")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_device_that_is_lost_ends_the_run_with_what_was_done(tmp_path: Path, workers: int) -> None:
    gone = Gone(tmp_path)
    job = jobs.make(steps=jobs.FOR_EVER)
    outcome, _, messages = faults.run(job, workers, device="away", change=gone, phase=gone.phase, checkpoint_steps=1)
    expected, _ = faults.undisturbed(jobs.make(steps=outcome.steps_done))
    assert outcome.steps_done >= 3
    assert faults.hash_of(outcome) == expected
    assert outcome.failure
    assert "no CUDA-capable device is detected" in outcome.failure.message
    assert [message for message in messages if "has lost its GPU: CUDA error: the launch failed" in message]


def test_memory_that_never_suffices_ends_the_run_with_what_would_fit(tmp_path: Path) -> None:
    job = jobs.make(loss=Full(tmp_path, always=True))
    outcome, _, _ = faults.run(job, 1, device="away", change=away.there)
    assert outcome.failure
    text = outcome.failure.message
    assert "worker 0 has lost its GPU: CUDA out of memory. Tried to allocate 20.00 GiB, 3" in text
    assert (
        "3 times in a row at the same place (step 1, microbatch 0); see logs/. What would fit: microbatches=16" in text
    )


def test_an_algorithm_may_have_been_another_where_memory_was_refused() -> None:
    check_refusals(0)
    with pytest.raises(DeviceFailed, match="may have computed in another way"):
        check_refusals(1)


@pytest.mark.few("adamw-2")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw", "adafactor", "muon and adagrad"])
def test_workers_that_own_devices_give_the_bits_of_the_cpu(name: str, workers: int) -> None:
    job = jobs.make(**JOBS[name])
    expected, records = faults.undisturbed(job)
    outcome, found, _ = faults.run(job, workers, device="away", change=away.there)
    raise_failure(outcome)
    assert faults.hash_of(outcome) == expected
    assert outcome.described.layout.description.fingerprint["device"] == "away"
    assert told_of(found) == told_of(records)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_pytorch_cannot_use_is_said_with_its_words() -> None:
    with pytest.raises(UsageError, match=r"it says: .*(CUDA|NVIDIA).* Mend what it names, or train on CPUs"):
        devices.begun("cuda")


class Failing(jobs.Mlp):
    """Fails on the device; where `is_known`, as PyTorch does that has no such kernel."""

    is_known = True

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.device.type == "away" and torch.are_deterministic_algorithms_enabled():
            raise RuntimeError("bends_cuda does not have a deterministic implementation" if self.is_known else "bent")
        return super().forward(inputs)


class Unknown(Failing):
    is_known = False


def test_an_operation_without_a_deterministic_kernel_is_named_before_the_first_step() -> None:
    outcome, records, _ = faults.run(jobs.make(model=Failing), 1, device="away", change=away.there)
    assert outcome.failure
    assert "bends_cuda has no such algorithm in PyTorch" in outcome.failure.message
    assert "microbatch" not in outcome.failure.message
    assert records == []


def test_what_else_fails_then_fails_again_at_its_place() -> None:
    outcome, *_ = faults.run(jobs.make(model=Unknown), 1, device="away", change=away.there)
    assert outcome.failure
    assert "(worker 0, step 1, microbatch 0" in outcome.failure.message
    assert outcome.failure.traceback.endswith("RuntimeError: bent")
