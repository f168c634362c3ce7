"""What launchers tell the processes that they start, read as a `Place`; pure: nothing but names and values.

A launcher starts one Unisono on each host, which forks the host's workers itself. In the order in which they are
looked for (an inner launcher before the one around it):

    torchrun        TORCHELASTIC_RUN_ID, RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT
    plain           RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT: Kubernetes' operators, scripts of one's own
    Open MPI        OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE, OMPI_COMM_WORLD_LOCAL_SIZE
    Hydra           PMI_RANK, PMI_SIZE, MPI_LOCALNRANKS: MPICH, Intel MPI
    Slurm           SLURM_PROCID and more, within a step of srun only
    other PMI       PMI_RANK, PMI_SIZE
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from unisono.errors import UsageError
from unisono.hosts.nodelist import expand
from unisono.hosts.place import Place
from unisono.hosts.variables import Variables
from unisono.values.bounds import number_in

DERIVED_PORTS = range(15000, 30000)
"""Where a port lies that follows from a job's number: below those that systems give to outgoing connections."""

LAST_STEP = 0xFFFFFF00
"""Slurm counts steps from 0; above this are its own names for shells and batch scripts, which srun has not started."""

PORTS = range(1, 1 << 16)


def place(environment: Mapping[str, str], hostname: str, ports: range | None = None) -> Place | None:
    """Where this process stands among those that a launcher has started.

    Args:
        environment: its variables.
        hostname: what this machine calls itself.
        ports: out of which a port is that follows from a job's number; None = `DERIVED_PORTS`.

    Returns:
        None where no launcher has started it, or nothing else.

    Raises:
        UsageError: more than one process on a host, or variables that are missing or contradict each other.

    >>> place({}, "a") is None
    True
    >>> place({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}, "b").name
    'b-1'
    """
    for is_there, read in _LAUNCHERS:
        if is_there(environment):
            found = read(environment, hostname)
            if found is not None and ports is not None and not environment.get("MASTER_PORT"):
                found = replace(found, port=ports[found.port % len(ports)])
            return found
    if environment.get("RANK", "0") == "0" and environment.get("WORLD_SIZE", "1") == "1":
        return None
    # Half of the plain variables, and nothing else that says where this host stands.
    return _plain(environment, hostname)


def starts_again(environment: Mapping[str, str]) -> bool:
    """Whether a launcher says that it has started the same script before. torchrun's agents count restarts each for
    themselves; where their store outlives a restart, that is asked instead (`Cluster.meet`).

    Args:
        environment: its variables.

    >>> starts_again({"SLURM_RESTART_COUNT": "2"}), starts_again({})
    (True, False)
    """
    counts = ["SLURM_RESTART_COUNT"]
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        counts.append("TORCHELASTIC_RESTART_COUNT")
    return any(number_in(environment.get(name, "")) for name in counts)


def _in_slurm_step(environment: Mapping[str, str]) -> bool:
    step = number_in(environment.get("SLURM_STEP_ID", ""))
    return "SLURM_PROCID" in environment and step is not None and 0 <= step < LAST_STEP


def _torchrun(environment: Mapping[str, str], hostname: str) -> Place | None:
    found = Variables(
        "torchrun", environment, "Start one process on each host: torchrun --nnodes=HOSTS --nproc-per-node=1 … -m "
        "unisono train job.py"
    )  # fmt: skip
    host, hosts = found.standing("RANK", "WORLD_SIZE")
    found.one_per_host("LOCAL_WORLD_SIZE", "--nproc-per-node=1")
    if hosts == 1 and not found.number("TORCHELASTIC_MAX_RESTARTS", default=0):
        return None  # one that may be started again can be what is left of several, or become several
    if found.number("GROUP_RANK", default=host) != host:
        raise found.contradict("GROUP_RANK", "RANK")
    # Agents count restarts each for themselves, so the counts of two hosts differ: no part of the prefix.
    return Place(
        host, hosts, found.text("MASTER_ADDR"), found.number("MASTER_PORT", PORTS),
        host == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        f"unisono/{environment['TORCHELASTIC_RUN_ID']}", "torchrun", f"{hostname}-{host}",
    )  # fmt: skip


def _plain(environment: Mapping[str, str], hostname: str) -> Place | None:
    launcher = "Kubernetes" if "KUBERNETES_SERVICE_HOST" in environment else "the launcher"
    found = Variables(
        launcher, environment, "Every host takes RANK (0, 1, …), WORLD_SIZE (how many hosts), and host 0's address "
        "and a free port of it as MASTER_ADDR and MASTER_PORT."
    )  # fmt: skip
    host, hosts = found.standing("RANK", "WORLD_SIZE")
    found.one_per_host("LOCAL_WORLD_SIZE", "one process on each host")
    if hosts == 1:
        return None
    if _in_slurm_step(environment) and environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        for own, slurm in (("RANK", "SLURM_PROCID"), ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")):
            if found.number(own) != found.number(slurm):
                raise found.contradict(own, slurm)
    return Place(
        host, hosts, found.text("MASTER_ADDR"), found.number("MASTER_PORT", PORTS), host == 0, "unisono", launcher,
        f"{hostname}-{host}",
    )  # fmt: skip


def _open_mpi(environment: Mapping[str, str], hostname: str) -> Place | None:
    return _mpi(environment, hostname, "OMPI_COMM_WORLD_", "OMPI_COMM_WORLD_LOCAL_SIZE", "PMIX_NAMESPACE")


def _pmi(environment: Mapping[str, str], hostname: str) -> Place | None:
    return _mpi(environment, hostname, "PMI_", "MPI_LOCALNRANKS", "PMI_JOBID")


def _mpi(environment: Mapping[str, str], hostname: str, stem: str, beside: str, job: str) -> Place | None:
    """None of them says where rank 0 is: mpirun's own host need not be it."""
    found = Variables(
        "mpirun", environment, "Start one process on each host, and say which host is the first: mpirun -N 1 -x "
        "MASTER_ADDR=FIRST_HOST -x MASTER_PORT=29500 unisono train job.py (with MPICH, -ppn 1 -genv NAME VALUE)."
    )  # fmt: skip
    host, hosts = found.standing(f"{stem}RANK", f"{stem}SIZE")
    found.one_per_host(beside, "-N 1")
    if hosts == 1:
        return None
    number = environment.get(job, "")
    port = _derived_port(number) if number else None
    return Place(
        host, hosts, found.text("MASTER_ADDR"), found.number("MASTER_PORT", PORTS, port), host == 0,
        f"unisono/{number or 0}", "mpirun", f"{hostname}-{host}",
    )  # fmt: skip


def _slurm(environment: Mapping[str, str], hostname: str) -> Place | None:
    found = Variables(
        "srun", environment, "Start one process on each host: srun --nodes=HOSTS --ntasks-per-node=1 unisono train "
        "job.py"
    )  # fmt: skip
    total = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    host, hosts = found.standing("SLURM_PROCID", total)
    if hosts == 1:
        return None
    nodes = expand(found.text("SLURM_STEP_NODELIST"))
    if len(nodes) != hosts:
        raise UsageError(
            f"Unisono runs once on each host and forks its workers itself; srun has started {hosts} on "
            f"{len(nodes)} hosts ({', '.join(nodes)}). Give srun --ntasks-per-node=1, and unisono train --workers."
        )
    address = environment.get("MASTER_ADDR") or nodes[0]
    if not environment.get("MASTER_ADDR") and found.number("SLURM_NODEID", default=host) != host:
        raise UsageError(
            f"host 0 is the first of {', '.join(nodes)} where srun numbers tasks as it numbers nodes; task {host} runs "
            f"on node {environment['SLURM_NODEID']}. Set MASTER_ADDR to the host of task 0."
        )
    step = f"{found.text('SLURM_JOB_ID')}.{found.text('SLURM_STEP_ID')}"
    restarts = found.number("SLURM_RESTART_COUNT", default=0)
    return Place(
        host, hosts, address, found.number("MASTER_PORT", PORTS, _derived_port(step)), host == 0,
        f"unisono/{step}/{restarts}", "srun", environment.get("SLURMD_NODENAME") or f"{hostname}-{host}",
    )  # fmt: skip


def _derived_port(job: str) -> int:
    """The same on every host of a job, and hardly that of another one.

    >>> _derived_port("812.0"), _derived_port("812.1")
    (18560, 21574)
    """
    return DERIVED_PORTS[zlib.crc32(job.encode()) % len(DERIVED_PORTS)]


_LAUNCHERS: tuple[tuple[Callable[[Mapping[str, str]], bool], Callable[[Mapping[str, str], str], Place | None]], ...] = (
    (lambda names: "TORCHELASTIC_RUN_ID" in names, _torchrun),
    (lambda names: "RANK" in names and "WORLD_SIZE" in names, _plain),
    (lambda names: "OMPI_COMM_WORLD_RANK" in names or "OMPI_COMM_WORLD_SIZE" in names, _open_mpi),
    (lambda names: "MPI_LOCALNRANKS" in names and "PMI_RANK" in names, _pmi),
    (_in_slurm_step, _slurm),
    (lambda names: "PMI_RANK" in names or "PMI_SIZE" in names, _pmi),
)
