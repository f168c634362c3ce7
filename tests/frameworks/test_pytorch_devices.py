"""Passes and replicas on a device: the bits of the CPU, nothing fetched in a pass, a round's rows in one transfer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import pytest

from paths import PYTHONPATH
from waiting import limit

pytest.importorskip("torch")

from torch.utils import backend_registration

import faults
import jobs
from frameworks import away
from frameworks.on_device import CASES
from frameworks.test_pytorch_replicas import JOBS
from frameworks.test_pytorch_replicas import told as told_of
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
