"""`unisono run`: a script does what it does under `python`, and is the only rank of torch.distributed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from paths import PYTHONPATH
from unisono.commands.run.run import environment
from unisono.errors import UsageError
from waiting import limit, watch

PYTHON, RUN = [sys.executable], [sys.executable, "-m", "unisono", "run"]
VARIABLES = {**os.environ, "PYTHONPATH": PYTHONPATH}

PLAIN = """
import atexit, os, sys
print(sys.argv, __name__, __file__, sys.path[0], __spec__, sys.flags.safe_path, os.getcwd())
atexit.register(print, "at the end")
def deep(): raise LookupError("mine")
if "fail" in sys.argv: deep()
sys.exit(7)
"""


def outcome(command: list[str], folder: Path, status: int | None = None, **variables: str) -> tuple[int, str, str]:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=limit(), env={**VARIABLES, **variables}
    )
    assert status is None or done.returncode == status, done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [["a", "--b=c"], ["fail"]], ids=["exit", "raise"])
def test_a_script_runs_as_python_runs_it(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "script.py").write_text(PLAIN)
    expected = outcome([*PYTHON, "sub/script.py", *arguments], tmp_path)
    assert outcome([*RUN, "sub/script.py", "--workers", "4", *arguments], tmp_path) == expected
    assert expected[0] == (1 if arguments == ["fail"] else 7)


def test_an_interrupt_is_the_scripts(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import signal\nprint('here', flush=True)\nsignal.pause()\n")
    found = []
    for command in (PYTHON, RUN):
        process = subprocess.Popen(
            [*command, "script.py"], cwd=tmp_path, text=True, env=VARIABLES, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        watch(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=limit())
        places = [line.partition(", line")[0] for line in told.splitlines() if "File" in line]
        found.append((places, told.splitlines()[-1], process.returncode))
    assert found[0] == found[1] == ([f'  File "{tmp_path / "script.py"}"'], "KeyboardInterrupt", -signal.SIGINT)


def test_the_sitecustomize_that_is_hidden_runs_too(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("print('own')")
    (tmp_path / "script.py").write_text("print('script')")
    path = os.pathsep.join([str(tmp_path / "own"), PYTHONPATH])
    assert outcome([*RUN, "script.py"], tmp_path, PYTHONPATH=path)[1].splitlines()[-2:] == ["own", "script"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "takes a Python file; received 'none.py'" in outcome([*RUN, "none.py"], tmp_path, status=2)[2]


@pytest.mark.parametrize("variables", [
    {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, {"RANK": "0", "WORLD_SIZE": "4"},
    {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
    {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
    {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
], ids=["plain", "no-address", "torchrun", "mpirun", "srun"])  # fmt: skip
def test_other_ranks_are_refused(variables: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"started once.*without one: unisono run script\.py\."):
        environment(variables, "here", 2, None)


ONE_RANK = """
import os, subprocess, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.distributed import device_mesh
from torch.utils.data import DistributedSampler, TensorDataset

assert [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")] == ["0", "0", "1"]
assert dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=True).num_keys() >= 0
for backend, more in (("nccl", {"device_id": torch.device("cuda", 0)}), ("gloo", dict(rank=0, world_size=4))):
    dist.init_process_group(backend, init_method="tcp://nowhere:1", **more)
    assert (dist.get_rank(), dist.get_world_size(), dist.get_backend()) == (0, 1, "gloo")
    value, gathered = torch.arange(3.0), [None]
    dist.all_reduce(value)
    dist.broadcast(value, src=0)
    dist.all_gather_object(gathered, "mine")
    dist.barrier()
    assert value.tolist() == [0, 1, 2] and gathered == ["mine"]
    dist.destroy_process_group()
data = TensorDataset(torch.arange(10))
assert sorted(DistributedSampler(data, num_replicas=4, rank=0)) == sorted(DistributedSampler(data)) == list(range(10))
try:
    dist.init_process_group("gloo", rank=2, world_size=4)
except Exception as error:
    print("refused:", error)
child = "import torch.distributed as dist; dist.init_process_group(); print(dist.get_world_size())"
print(subprocess.check_output([sys.executable, "-c", child], text=True))
"""


def test_torch_distributed_has_one_rank(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ONE_RANK)
    _, printed, told = outcome([*RUN, "script.py", "--workers", "2"], tmp_path, status=0)
    assert "refused: a script under unisono run is the only rank, 0; received rank=2" in printed
    assert printed.splitlines()[-2:] == ["1", ""], "a child finds it so too"
    assert told.count("there is no GPU here: gloo instead of nccl") == 1
    assert (
        told.count("this script's batch is the global batch (torchrun --nproc-per-node=4 made it 4 times as large)")
        == 2
    )
    assert "asks for 4 ranks and gets one" in told


RANKS = """
import multiprocessing, sys
import torch.distributed as dist, torch.multiprocessing as mp

def main(rank, ranks, name):
    try:
        dist.init_process_group("gloo", rank=rank, world_size=ranks)
        print(name, "rank", dist.get_rank(), "of", dist.get_world_size(), flush=True)
    finally:
        dist.destroy_process_group()

def work(index):
    print("work", index, flush=True)

if __name__ == "__main__":
    mp.spawn(main, args=(2, "spawn"), nprocs=2)
    mp.start_processes(work, nprocs=2, start_method="fork")
    children = [mp.get_context("fork").Process(target=main, args=(rank, 3, "Process")) for rank in range(3)]
    for child in children: child.start()
    for child in children: child.join()
    print([child.exitcode for child in children])
"""


def test_the_first_of_the_ranks_that_a_script_starts_is_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(RANKS)
    printed = outcome([*RUN, "script.py"], tmp_path, status=0)[1].splitlines()
    assert [line for line in printed if "rank" in line] == ["spawn rank 0 of 1", "Process rank 0 of 1"]
    assert sorted(line for line in printed if "work" in line) == ["work 0", "work 1"], "processes that are no ranks"
    assert printed[-1] == "[0, 0, 0]"


def test_options_of_the_scripts_own(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import os, sys\nprint(sys.argv[1:], os.environ.get('UNISONO_WORKERS'))")
    lines = [
        outcome([*RUN, *words], tmp_path, status=0)[1].strip()
        for words in (["script.py", "--workers=3", "--lr", "1"], ["--workers", "3", "script.py", "--workers", "8"])
    ]
    assert lines == ["['--lr', '1'] 3", "['--workers', '8'] 3"]


def test_nothing_of_torch_is_imported_that_the_script_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import sys\nprint({'torch', 'numpy', 'click'} & set(sys.modules))")
    assert outcome([*RUN, "script.py"], tmp_path, status=0)[1] == "set()\n"
