"""A script is one process: ranks are refused, and what shares models among them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import unisono
from paths import PYTHONPATH
from unisono.scripts.pytorch import refused
from waiting import limit

MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "a[0-3]",
}  # fmt: skip
HOSTS = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("variables", "received"),
    [(MPI, "OMPI_COMM_WORLD_SIZE='4'"), (SLURM, "SLURM_STEP_NUM_TASKS='4'"), (HOSTS, "RANK='1', WORLD_SIZE='2'")],
    ids=["mpirun", "srun", "several hosts"],
)
def test_a_script_that_is_one_of_several_is_refused(
    variables: dict[str, str], received: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        unisono.UsageError, match=f"is one process .* received {received} from a launcher.*a Job trains on several"
    ):
        unisono.parallel(nn.Linear(2, 2))


def test_one_process_of_a_launcher_is_none_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {"TORCHELASTIC_RUN_ID": "7", "RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_MAX_RESTARTS": "3"}
    for name, value in {**alone, "MASTER_ADDR": "a", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    unisono.parallel(nn.Linear(2, 2), workers=0)


def test_a_rank_of_torch_distributed_is_refused_before_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unisono.parallel(nn.Linear(2, 2), workers=0)
    monkeypatch.setattr(refused.torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(refused.torch.distributed, "get_world_size", lambda: 4)
    with pytest.raises(unisono.UsageError, match=r"received torch\.distributed of 4 ranks"):
        model(torch.ones(16, 2))


def test_a_model_that_others_share_out_is_refused() -> None:
    with pytest.raises(unisono.UsageError, match=r"received one in DataParallel\. Pass the model itself"):
        unisono.parallel(nn.DataParallel(nn.Linear(2, 2)))


SHARDED = """
import sys, torch
torch.distributed.init_process_group("gloo")
if sys.argv[1] == "class":
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
    FSDP(torch.nn.Linear(2, 2))
else:
    from torch.distributed._composable.fsdp import fully_shard
    fully_shard(torch.nn.Linear(2, 2))
"""


@pytest.mark.few("class-FSDP")
@pytest.mark.parametrize(("kind", "name"), [("class", "FSDP"), ("function", "fully_shard")])
def test_sharded_models_are_refused_under_unisono_run(kind: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SHARDED)
    done = subprocess.run(
        [sys.executable, "-m", "unisono", "run", str(tmp_path / "script.py"), kind], capture_output=True, text=True,
        timeout=limit(), env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert done.returncode == 1
    assert f"received {name} under unisono run, which has one. Use DistributedDataParallel, or model =" in done.stderr
