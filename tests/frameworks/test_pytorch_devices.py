"""Passes on a device: the bits of the CPU, nothing fetched in a pass or an update, a round's rows in one transfer."""

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

from frameworks.on_device import CASES

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


@pytest.mark.skipif(not HAS_PYTHON_BACKENDS, reason="this PyTorch has no devices that are written in Python")
@pytest.mark.parametrize("case", CASES)
def test_on_a_device(case: str) -> None:
    assert told()[case] == ""
