"""A model that is too small to share: said once, from times that were measured, and no bit changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paths import PYTHONPATH
from unisono.scripts.pytorch import timed
from unisono.scripts.pytorch.timed import Timed
from waiting import limit

CALL: Any = SimpleNamespace(keeps=True, samples=16)


class Workers:
    """Two of them, who have computed for longer at each look."""

    def __init__(self, *each: float, heir: int = 1) -> None:
        self.looks = iter([{0: 0.0, 1: 0.0}, {0: each[0], heir: each[1]}])

    def spent(self) -> dict[int, float]:
        return next(self.looks)

    def forward(self, *arguments: Any) -> list[Any]:
        return []

    backward = forward


def told(
    workers: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, calls: int = 60
) -> list[str]:
    """What is said where each act takes the script 4 ms."""
    now = iter(0.004 * number for number in range(1000))
    monkeypatch.setattr(timed, "perf_counter", lambda: next(now))
    model = Timed(workers)
    for _ in range(calls):
        model.forward(CALL, [], [])
        model.backward(CALL, [], False)
    return capsys.readouterr().err.splitlines()


def test_what_is_too_small_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    said = (
        "unisono: this model is too small to share: 5.0 ms alone, 8.0 shared; smallest=17 or workers=0: the script "
        "computes itself."
    )
    assert told(Workers(0.03, 0.01), capsys, monkeypatch) == [said]


@pytest.mark.parametrize("workers", [Workers(0.04, 0.03), Workers(0.03, 0.01, heir=2)], ids=["worth it", "replaced"])
def test_nothing_is_said(
    workers: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    assert told(workers, capsys, monkeypatch) == []


def test_probes_are_not_counted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CALL, "keeps", False)
    assert told(Workers(0.03, 0.01), capsys, monkeypatch) == []


MEASURED = """
import os, signal, sys, torch, unisono
from torch import nn
from unisono.scripts.pytorch import timed

timed.too_small = lambda calls, shared, alone, larger: f"{calls} calls, {alone > 0 < shared}"
torch.manual_seed(0)
model = unisono.parallel(nn.Linear(3, 3), microbatches=4, workers=int(sys.argv[1]))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(54):
    optimizer.zero_grad()
    model(torch.randn(16, 3)).square().mean().backward()
    optimizer.step()
    if step == 26:
        model.double().float()
print(model.weight.flatten().tolist())
"""


@pytest.mark.thorough
def test_workers_tell_how_long_they_have_computed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(MEASURED)
    alone, shared = (
        subprocess.run(
            [sys.executable, str(tmp_path / "script.py"), workers], capture_output=True, text=True, timeout=limit(),
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
        )
        for workers in ("0", "2")
    )  # fmt: skip
    assert alone.stdout == shared.stdout != ""
    assert (alone.stderr, shared.stderr) == ("", "unisono: 8 calls, True\n")
