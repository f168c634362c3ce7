"""`verify --calls`: a script's backward passes on several numbers of workers, and the first that differs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from unisono.commands.verify import script
from unisono.errors import JobError, UsageError

LOOP = """
import random, sys, numpy as np, torch, unisono
from torch import nn
model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1))
model = unisono.parallel(model, microbatches=4)
optimizer = torch.optim.AdamW(model.parameters(), lr=float(sys.argv[1]))
while True:
    noise = random.random() + np.random.rand()          # not seeded: verify does
    loss = (model(torch.randn(16, 3)) + noise).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""

WRITES = """
import json, os, sys
workers, path = int(os.environ["UNISONO_VERIFY_WORKERS"]), os.environ["UNISONO_HASHES"]
for number in range(3):
    value = str(workers if number == 1 and "differ" in sys.argv else 0)
    with open(path, "a") as file:
        told = {"backward": number, "parameters": {"N.w": "0"}, "gradients": {"N.w": value}, "workers": []}
        file.write(json.dumps(told) + chr(10))
    if "fail" in sys.argv: raise LookupError("mine")
"""


def written(folder: Path, text: str) -> str:
    (folder / "script.py").write_text(text)
    return str(folder / "script.py")


def test_a_script_gives_the_same_bits_on_any_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "WORLDS", (0, 2))
    report = script.verify_script(written(tmp_path, LOOP), ["0.01"], 8)
    names = [each.name for each in report.situations]
    assert names[:2] == ["in the script", "2 workers"]
    assert names[2].startswith("2 workers, ")
    assert not names[2].endswith(" 0 killed")
    assert report.agree, report.difference
    assert len({json.dumps(each) for each in report.situations[0].gradients}) == 8
    assert set(report.situations[0].parameters[0]) == {
        f"Sequential.{n}.{p}" for n in (0, 1, 3) for p in ("weight", "bias")
    }


def test_the_first_pass_that_differs_is_named(tmp_path: Path) -> None:
    report = script.verify_script(written(tmp_path, WRITES), ["differ"], 5)
    assert not report.agree
    assert report.difference == ("1 worker", 2, "the gradient of N.w")
    console = Console(file=io.StringIO(), width=80)
    console.print(report.render())
    shown = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert "differ first after backward pass 2 (1 worker), in the gradient of N.w" in shown


def test_a_script_that_fails_ends_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="ended with status 1 after 1 backward passes") as caught:
        script.verify_script(written(tmp_path, WRITES), ["fail"], 3)
    assert caught.value.traceback.endswith("LookupError: mine")


def test_a_script_without_a_parallel_call_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has ended without one\. Wrap the model: model = unisono\.parallel\(model\)"):
        script.verify_script(written(tmp_path, "print('nothing')"), [], 3)
    with pytest.raises(UsageError, match=r"takes a Python file; received .*none\.py"):
        script.verify_script(str(tmp_path / "none.py"), [], 3)
