"""What each launcher sets, as it really does, and what is made of it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import make
from unisono.api import start, train
from unisono.errors import UsageError
from unisono.hosts.launchers import DERIVED_PORTS, place, starts_again
from unisono.hosts.nodelist import expand
from unisono.hosts.place import Place

TORCHRUN = {
    "LOCAL_RANK": "0", "RANK": "1", "GROUP_RANK": "1", "ROLE_RANK": "1", "ROLE_NAME": "default",
    "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", "ROLE_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
}  # fmt: skip
PYTORCHJOB = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1", "PYTHONUNBUFFERED": "1", "MASTER_ADDR": "digits-master-0",
    "MASTER_PORT": "23456", "WORLD_SIZE": "3", "RANK": "2", "PET_NNODES": "3", "PET_NODE_RANK": "2",
}  # fmt: skip
JOBSET = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1", "JOB_COMPLETION_INDEX": "1", "RANK": "1", "WORLD_SIZE": "2",
    "MASTER_ADDR": "digits-hosts-0-0.digits", "MASTER_PORT": "29500",
}  # fmt: skip
SLURM = {
    "SLURMD_NODENAME": "node02", "SLURM_JOBID": "1", "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "node[01-02]",
    "SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_NPROCS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": "1",
    "SLURM_STEPID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "node[01-02]", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.9",
}  # fmt: skip
SALLOC = {
    "SLURM_JOB_ID": "3", "SLURM_JOB_NODELIST": "node[01-02]", "SLURM_NNODES": "2", "SLURM_NODELIST": "node[01-02]",
    "SLURM_TASKS_PER_NODE": "1(x2)",
}  # fmt: skip
SBATCH = {
    **SALLOC, "SLURMD_NODENAME": "node01", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NPROCS": "2",
    "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_GTIDS": "0",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_NODE_RANK": "0",
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_num_nodes": "2",
    "PMIX_NAMESPACE": "1074331649", "PMIX_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip
HYDRA = {
    "PMI_RANK": "1", "PMI_SIZE": "2", "PMI_FD": "9", "MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
}  # fmt: skip


def without(environment: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def port_of(environment: dict[str, str]) -> int:
    found = place(environment, "box")
    assert found is not None
    return found.port


@pytest.mark.parametrize(("environment", "expected"), [
    pytest.param(TORCHRUN, Place(1, 2, "10.0.0.1", 29500, False, "unisono/none", "torchrun", "box-1"),
                 id="torchrun"),
    pytest.param({**TORCHRUN, "RANK": "0", "GROUP_RANK": "0"},
                 Place(0, 2, "10.0.0.1", 29500, False, "unisono/none", "torchrun", "box-0"), id="agent-serves"),
    pytest.param({**TORCHRUN, "RANK": "0", "GROUP_RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "False"},
                 Place(0, 2, "10.0.0.1", 29500, True, "unisono/none", "torchrun", "box-0"), id="rank-0-serves"),
    pytest.param({**TORCHRUN, **SLURM, **OPEN_MPI, "MASTER_ADDR": "10.0.0.1", "TORCHELASTIC_RESTART_COUNT": "2"},
                 Place(1, 2, "10.0.0.1", 29500, False, "unisono/none", "torchrun", "box-1"), id="torchrun-in-slurm"),
    pytest.param({**TORCHRUN, "RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RESTART_COUNT": "1"},
                 Place(0, 1, "10.0.0.1", 29500, False, "unisono/none", "torchrun", "box-0"), id="last-one-left"),
    pytest.param(PYTORCHJOB, Place(2, 3, "digits-master-0", 23456, False, "unisono", "Kubernetes", "box-2"),
                 id="PyTorchJob"),
    pytest.param({**PYTORCHJOB, "RANK": "0"},
                 Place(0, 3, "digits-master-0", 23456, True, "unisono", "Kubernetes", "box-0"), id="master"),
    pytest.param(JOBSET, Place(1, 2, "digits-hosts-0-0.digits", 29500, False, "unisono", "Kubernetes", "box-1"),
                 id="JobSet"),
    pytest.param(without(PYTORCHJOB, "KUBERNETES_SERVICE_HOST"),
                 Place(2, 3, "digits-master-0", 23456, False, "unisono", "the launcher", "box-2"), id="plain"),
    pytest.param(SLURM, Place(1, 2, "node01", port_of(SLURM), False, "unisono/1.0/0", "srun", "node02"),
                 id="srun"),
    pytest.param({**SLURM, "SLURM_RESTART_COUNT": "2", "MASTER_ADDR": "ib-node01", "MASTER_PORT": "4000",
                  "PMI_RANK": "1", "PMI_SIZE": "2"},
                 Place(1, 2, "ib-node01", 4000, False, "unisono/1.0/2", "srun", "node02"), id="requeued"),
    pytest.param({**SLURM, "WORLD_SIZE": "16"},
                 Place(1, 2, "node01", port_of(SLURM), False, "unisono/1.0/0", "srun", "node02"),
                 id="half-of-the-plain-ones-in-a-batch-script"),
    pytest.param({**without(SLURM, "SLURM_STEP_NUM_TASKS"), "SLURM_PROCID": "0", "SLURM_NODEID": "0"},
                 Place(0, 2, "node01", port_of(SLURM), True, "unisono/1.0/0", "srun", "node02"), id="old-slurm"),
    pytest.param(OPEN_MPI, Place(1, 2, "10.0.0.1", 29500, False, "unisono/1074331649", "mpirun", "box-1"),
                 id="mpirun"),
    pytest.param({**SLURM, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", **OPEN_MPI},
                 Place(1, 2, "10.0.0.1", 29500, False, "unisono/1074331649", "mpirun", "box-1"),
                 id="mpirun-in-slurm"),
    pytest.param(HYDRA, Place(1, 2, "10.0.0.1", 29500, False, "unisono/0", "mpirun", "box-1"), id="MPICH"),
    pytest.param(without(HYDRA, "MPI_LOCALNRANKS"),
                 Place(1, 2, "10.0.0.1", 29500, False, "unisono/0", "mpirun", "box-1"), id="PMI"),
])  # fmt: skip
def test_a_place(environment: dict[str, str], expected: Place) -> None:
    assert place(environment, "box") == expected


def test_a_launcher_that_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(map(starts_again, ({}, TORCHRUN, SLURM, {**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "1"})))
    apart = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "False", "TORCHELASTIC_RESTART_COUNT": "1"}
    assert all(map(starts_again, (apart, {"SLURM_RESTART_COUNT": "1"}, {**TORCHRUN, "SLURM_RESTART_COUNT": "3"})))
    whole = train(make(steps=2), out=tmp_path / "out", debug=True)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # a job on one host, in the queue again
    assert train(make(steps=2), out=tmp_path / "out", debug=True).parameters_sha256 == whole.parameters_sha256


@pytest.mark.parametrize("environment", [
    {},
    {"MASTER_ADDR": "a", "MASTER_PORT": "1"},
    {"RANK": "0"},
    {"WORLD_SIZE": "1"},
    {"RANK": "0", "WORLD_SIZE": "1"},
    {**TORCHRUN, "RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_MAX_RESTARTS": "0"},
    {**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
    {**HYDRA, "PMI_RANK": "0", "PMI_SIZE": "1"},
    {**SLURM, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    SALLOC,
    SBATCH,
    {**SBATCH, "SLURM_STEP_ID": str(0xFFFFFFFB)},
    {**SBATCH, "SLURM_STEP_ID": str(0xFFFFFFFA)},
], ids=["nothing", "address", "rank", "size", "one", "torchrun", "mpirun", "MPICH", "srun", "salloc", "sbatch",
        "batch-step", "interactive-step"])  # fmt: skip
def test_one_host(environment: dict[str, str]) -> None:
    assert place(environment, "box") is None


@pytest.mark.parametrize(("environment", "message"), [
    ({**TORCHRUN, "RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"},
     "Start it with --nproc-per-node=1, and give unisono train --workers 2"),
    ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "Start it with -N 1, and give unisono train --workers 2"),
    ({**HYDRA, "MPI_LOCALNRANKS": "4"}, "Start it with -N 1, and give unisono train --workers 4"),
    ({**SLURM, "SLURM_STEP_NUM_TASKS": "4"}, "4 on 2 hosts (node01, node02). Give srun --ntasks-per-node=1"),
    ({**SLURM, "SLURM_NODEID": "0"}, "Set MASTER_ADDR to the host of task 0"),
    ({**SLURM, "SLURM_STEP_NODELIST": "node[01-"}, "received 'node[01-'. Set MASTER_ADDR"),
    (without(SLURM, "SLURM_STEP_NODELIST"), "SLURM_STEP_NODELIST; it is not set here. Start one process on each host"),
    ({**SLURM, "MASTER_PORT": "eight"}, "MASTER_PORT must be a whole number from 1 to 65535; received 'eight'"),
    (without(OPEN_MPI, "MASTER_ADDR"), "MASTER_ADDR; it is not set here. Start one process on each host, and say"),
    (without(HYDRA, "MASTER_PORT"), "MASTER_PORT; it is not set here"),
    (without(TORCHRUN, "RANK"), "torchrun tells every host RANK; it is not set here. Start one process"),
    (without(TORCHRUN, "MASTER_PORT"), "torchrun tells every host MASTER_PORT"),
    ({**TORCHRUN, "GROUP_RANK": "0"}, "GROUP_RANK and RANK must agree; received GROUP_RANK=0 and RANK=1"),
    ({**PYTORCHJOB, "RANK": "3"}, "received RANK=3 and WORLD_SIZE=3"),
    ({**PYTORCHJOB, "RANK": "-1"}, "RANK must be a whole number of at least 0; received '-1'"),
    ({**PYTORCHJOB, "WORLD_SIZE": "0"}, "WORLD_SIZE must be a whole number from 1"),
    ({**PYTORCHJOB, "MASTER_PORT": "65536"}, "received '65536'"),
    ({**PYTORCHJOB, "MASTER_ADDR": ""}, "Kubernetes tells every host MASTER_ADDR; it is empty here"),
    ({**PYTORCHJOB, **SLURM, "SLURM_PROCID": "0"}, "RANK and SLURM_PROCID must agree"),
    ({"RANK": "1"}, "the launcher tells every host WORLD_SIZE"),
    ({"WORLD_SIZE": "2"}, "the launcher tells every host RANK"),
    ({"PMI_SIZE": "2"}, "mpirun tells every host PMI_RANK"),
], ids=str)  # fmt: skip
def test_what_cannot_be(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        place(environment, "box")


def test_ports_follow_from_job_and_step() -> None:
    ports = {port_of({**SLURM, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(s)}) for job in range(9) for s in (0, 1)}
    assert len(ports) > 15
    assert all(port in DERIVED_PORTS for port in ports)
    assert port_of(without(OPEN_MPI, "MASTER_PORT")) == port_of(without({**OPEN_MPI, "X": "1"}, "MASTER_PORT"))


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,4}[a-z]", fullmatch=True)
RANGES = st.tuples(st.integers(0, 120), st.integers(0, 20), st.integers(1, 4))


@given(st.lists(st.tuples(NAMES, st.lists(RANGES, max_size=3), st.sampled_from(["", "-ib", "n[3,5]"])), min_size=1))
def test_any_list_of_hosts(parts: list[tuple[str, list[tuple[int, int, int]], str]]) -> None:
    texts, names = [], []
    for stem, ranges, end in parts:
        ends = ["n3", "n5"] if "[" in end else [end]
        pieces = [f"{a:0{w}d}" if n == 0 else f"{a:0{w}d}-{a + n:0{w}d}" for a, n, w in ranges]
        numbers = [f"{a + k:0{w}d}" for a, n, w in ranges for k in range(n + 1)] if ranges else [""]
        texts.append(stem + (f"[{','.join(pieces)}]" if ranges else "") + end)
        names += [stem + number + end for number in numbers for end in ends]
    assert expand(",".join(texts)) == names


@given(st.text(st.sampled_from("ab[],-019 "), max_size=12))
def test_what_is_no_list_is_refused(text: str) -> None:
    with suppress(UsageError):  # anything else is a fault of ours
        names = expand(text)
        assert names
        assert not any(set(name) & set("[], ") for name in names)


def test_a_list_that_is_far_too_long_is_refused() -> None:
    for text in ("n[1-99999999]", "n[0-9999]m[0-9999]"):
        with pytest.raises(UsageError, match="a list of hosts"):
            expand(text)


def test_a_run_in_the_background_is_one_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="start trains on this host alone; the launcher has started 2 hosts"):
        start(make())
