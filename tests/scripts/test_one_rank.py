"""What a script takes for DDP under `unisono run`, and scripts written for several ranks that run unchanged."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.algorithms import Join

from command_line import EXAMPLES
from paths import PYTHONPATH
from unisono.errors import UsageError
from unisono.scripts.parallel import is_parallel
from unisono.scripts.pytorch.one_rank.ddp import OneRankDistributedDataParallel as DDP
from waiting import limit

RECIPES = EXAMPLES / "recipes"


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would live as long as the models of this process."""
    monkeypatch.setenv("UNISONO_WORKERS", "0")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_ddps_class_is_the_parallel_call() -> None:
    plain, inner, inputs = net(), net(), torch.randn(10, 3)
    model = DDP(inner, None, None, find_unused_parameters=True, gradient_as_bucket_view=True)
    assert isinstance(model, nn.parallel.DistributedDataParallel)
    assert model.module is inner
    assert is_parallel(inner)
    assert list(model.state_dict()) == [f"module.{name}" for name in plain.state_dict()]
    with model.no_sync():
        model(inputs).square().mean().backward()
    model(inputs).square().mean().backward()
    (2 * plain(inputs).square().mean()).backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_copy_computes_by_itself() -> None:
    model, inputs = DDP(net()), torch.randn(4, 3)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not is_parallel(other.module)
        torch.testing.assert_close(other(inputs), net()(inputs))
        with torch.no_grad():
            next(other.parameters()).add_(1)
    torch.testing.assert_close(model(inputs), net()(inputs))


def test_nobody_is_waited_for(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        model = DDP(net())
        with Join([model]):
            model(torch.randn(4, 3)).sum().backward()
        with model.join():
            model(torch.randn(4, 3)).sum().backward()
    finally:
        torch.distributed.destroy_process_group()


def test_what_ranks_do_among_each_other_is_refused() -> None:
    with pytest.raises(UsageError, match=r"communication hook .* received 'print' .* Leave register_comm_hook out"):
        DDP(net()).register_comm_hook(None, print)
    with pytest.raises(UsageError, match=r"mixed_precision casts parameters.* Use torch\.autocast"):
        DDP(net(), mixed_precision=torch.float16)


def run(recipe: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "unisono", "run", str(RECIPES / recipe), *arguments]
    variables = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit(), env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


RECIPES_HERE = sorted(each.name for each in RECIPES.glob("*.py"))


@pytest.mark.few("ddp_spawn.py", "horovod_digits.py")
@pytest.mark.parametrize("recipe", RECIPES_HERE)
def test_recipes_for_several_ranks_run_unchanged(recipe: str, tmp_path: Path) -> None:
    printed = run(recipe, tmp_path, "--workers", "2").splitlines()
    assert [line.partition(":")[0] for line in printed] == ["epoch 0", "epoch 1"]
    if recipe == "ddp_spawn.py":
        assert all("over 1797 samples" in line for line in printed), "each sample once, by the only rank"
    saved = torch.load(tmp_path / "digits.pt")
    assert all(value.isfinite().all() for value in saved.values())


@pytest.mark.thorough
@pytest.mark.parametrize("recipe", RECIPES_HERE)
def test_recipes_give_the_same_bits_on_any_number_of_workers(recipe: str, tmp_path: Path) -> None:
    found = []
    for workers in ("0", "2", "3"):
        run(recipe, tmp_path, "--workers", workers)
        found.append((tmp_path / "digits.pt").read_bytes())
    assert found[0] == found[1] == found[2]
