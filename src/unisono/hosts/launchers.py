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
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace

from unisono.errors import UsageError
from unisono.hosts.nodelist import expand
from unisono.hosts.place import Place
from unisono.values.bounds import MOST_HOSTS, number_in
from unisono.values.text import excerpt

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
    themselves; where their store outlives a restart, that is asked instead (`Meeting.come`).

    Args:
        environment: its variables.

    >>> starts_again({"SLURM_RESTART_COUNT": "2"}), starts_again({})
    (True, False)
    """
    counts = ["SLURM_RESTART_COUNT"]
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        counts.append("TORCHELASTIC_RESTART_COUNT")
    return any(number_in(environment.get(name, "")) for name in counts)


@dataclass(frozen=True)
class Variables:
    """What a launcher has set.

    Attributes:
        launcher: who, as people call it.
        values: the whole environment.
        hostname: what this machine calls itself.
        way_out: how to start it so that all is there.

    >>> Variables("torchrun", {"RANK": "1", "WORLD_SIZE": "2"}, "", "").standing("RANK", "WORLD_SIZE")
    (1, 2)
    """

    launcher: str
    values: Mapping[str, str]
    hostname: str
    way_out: str

    def text(self, name: str) -> str:
        """A value that must be there.

        Raises:
            UsageError: it is not.
        """
        value = self.values.get(name, "")
        if not value:
            raise UsageError(
                f"{self.launcher} tells every host {name}; it is {'empty' if name in self.values else 'not set'} here. "
                f"{self.way_out}"
            )
        return value

    def number(self, name: str, allowed: Container[int] | None = None, default: int | None = None) -> int:
        """A whole number.

        Args:
            name: of the variable.
            allowed: the numbers that it may be; None = all from 0.
            default: what it is where it is not set; None = it must be.

        Raises:
            UsageError: it is missing, or something else.
        """
        if default is not None and not self.values.get(name):
            return default
        text = self.text(name)
        value = number_in(text)
        if value is None or value < 0 or (allowed is not None and value not in allowed):
            bounds = f"from {allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else "of at least 0"
            raise UsageError(f"{name} must be a whole number {bounds}; received {excerpt(text)}. {self.way_out}")
        return value

    def standing(self, number: str, total: str) -> tuple[int, int]:
        """This process's number and how many there are.

        Raises:
            UsageError: it is not one of them.
        """
        hosts = self.number(total, range(1, MOST_HOSTS + 1))
        host = self.number(number)
        if host >= hosts:
            raise UsageError(
                f"{number} counts from 0 and stays below {total}; received {number}={host} and {total}={hosts}. "
                f"{self.way_out}"
            )
        return host, hosts

    def one_per_host(self, name: str, option: str) -> None:
        """Refuse more than one process on a host.

        Args:
            name: the variable that says how many there are.
            option: the launcher's, for one.
        """
        if (here := self.number(name, range(1, MOST_HOSTS + 1), default=1)) > 1:
            raise UsageError(
                f"Unisono runs once on each host and forks its workers itself; {self.launcher} has started {here} on "
                f"this one ({name}={here}). Start it with {option}, and give unisono train --workers {here}."
            )

    def check_equal(self, one: str, other: str) -> None:
        """Refuse two variables that say different things."""
        if self.number(one) != self.number(other):
            raise UsageError(
                f"{one} and {other} must agree; received {one}={self.values[one]} and {other}={self.values[other]}. "
                f"{self.way_out}"
            )

    def place(
        self, host: int, hosts: int, prefix: str, job: str = "", address: str = "", serves: bool = True, name: str = ""
    ) -> Place:
        """The place of a host.

        Args:
            host, hosts, prefix, name: as in `Place`.
            job: what the port follows from where MASTER_PORT is not set.
            address: where hosts meet; "" = at MASTER_ADDR.
            serves: whether host 0 serves the store.
        """
        address = address or self.text("MASTER_ADDR")
        port = self.number("MASTER_PORT", PORTS, _derived_port(job) if job else None)
        name = name or f"{self.hostname}-{host}"
        return Place(host, hosts, address, port, host == 0 and serves, prefix, self.launcher, name)


def _in_slurm_step(environment: Mapping[str, str]) -> bool:
    step = number_in(environment.get("SLURM_STEP_ID", ""))
    return "SLURM_PROCID" in environment and step is not None and 0 <= step < LAST_STEP


def _torchrun(environment: Mapping[str, str], hostname: str) -> Place | None:
    found = Variables(
        "torchrun", environment, hostname,
        "Start one process on each host: torchrun --nnodes=HOSTS --nproc-per-node=1 … -m unisono train job.py",
    )  # fmt: skip
    host, hosts = found.standing("RANK", "WORLD_SIZE")
    found.one_per_host("LOCAL_WORLD_SIZE", "--nproc-per-node=1")
    if hosts == 1 and not found.number("TORCHELASTIC_MAX_RESTARTS", default=0):
        return None  # one that may be started again can be what is left of several, or become several
    if "GROUP_RANK" in environment:
        found.check_equal("GROUP_RANK", "RANK")
    # Agents count restarts each for themselves, so the counts of two hosts differ: no part of the prefix.
    serves = environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return found.place(host, hosts, f"unisono/{environment['TORCHELASTIC_RUN_ID']}", serves=serves)


def _plain(environment: Mapping[str, str], hostname: str) -> Place | None:
    launcher = "Kubernetes" if "KUBERNETES_SERVICE_HOST" in environment else "the launcher"
    found = Variables(
        launcher, environment, hostname, "Every host takes RANK (0, 1, …), WORLD_SIZE (how many hosts), and host 0's "
        "address and a free port of it as MASTER_ADDR and MASTER_PORT."
    )  # fmt: skip
    host, hosts = found.standing("RANK", "WORLD_SIZE")
    found.one_per_host("LOCAL_WORLD_SIZE", "one process on each host")
    if hosts == 1:
        return None
    if _in_slurm_step(environment) and environment.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        found.check_equal("RANK", "SLURM_PROCID")
        found.check_equal("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    return found.place(host, hosts, "unisono")


def _mpi(stem: str, beside: str, job: str) -> Callable[[Mapping[str, str], str], Place | None]:
    """None of them says where rank 0 is: mpirun's own host need not be it."""

    def read(environment: Mapping[str, str], hostname: str) -> Place | None:
        found = Variables(
            "mpirun", environment, hostname, "Start one process on each host, and say which host is the first: mpirun "
            "-N 1 -x MASTER_ADDR=FIRST_HOST -x MASTER_PORT=29500 unisono train job.py (with MPICH, -ppn 1 -genv NAME "
            "VALUE)."
        )  # fmt: skip
        host, hosts = found.standing(f"{stem}RANK", f"{stem}SIZE")
        found.one_per_host(beside, "-N 1")
        number = environment.get(job, "")
        return None if hosts == 1 else found.place(host, hosts, f"unisono/{number or 0}", number)

    return read


def _slurm(environment: Mapping[str, str], hostname: str) -> Place | None:
    found = Variables(
        "srun", environment, hostname,
        "Start one process on each host: srun --nodes=HOSTS --ntasks-per-node=1 unisono train job.py",
    )  # fmt: skip
    total = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    host, hosts = found.standing("SLURM_PROCID", total)
    if hosts == 1:
        return None
    nodes = expand(found.text("SLURM_STEP_NODELIST"))
    names = ", ".join(nodes)
    if len(nodes) != hosts:
        raise UsageError(
            f"Unisono runs once on each host and forks its workers itself; srun has started {hosts} on "
            f"{len(nodes)} hosts ({names}). Give srun --ntasks-per-node=1, and unisono train --workers."
        )
    address = environment.get("MASTER_ADDR")
    if not address and found.number("SLURM_NODEID", default=host) != host:
        raise UsageError(
            f"host 0 is the first of {names} where srun numbers tasks as it numbers nodes; task {host} runs "
            f"on node {environment['SLURM_NODEID']}. Set MASTER_ADDR to the host of task 0."
        )
    step = f"{found.text('SLURM_JOB_ID')}.{found.text('SLURM_STEP_ID')}"
    prefix = f"unisono/{step}/{found.number('SLURM_RESTART_COUNT', default=0)}"
    name = environment.get("SLURMD_NODENAME", "")
    return found.place(host, hosts, prefix, step, address or nodes[0], name=name)


def _derived_port(job: str) -> int:
    """The same on every host of a job, and hardly that of another one.

    >>> _derived_port("812.0"), _derived_port("812.1")
    (18560, 21574)
    """
    return DERIVED_PORTS[zlib.crc32(job.encode()) % len(DERIVED_PORTS)]


_PMI = _mpi("PMI_", "MPI_LOCALNRANKS", "PMI_JOBID")

_LAUNCHERS: tuple[tuple[Callable[[Mapping[str, str]], bool], Callable[[Mapping[str, str], str], Place | None]], ...] = (
    (lambda names: "TORCHELASTIC_RUN_ID" in names, _torchrun),
    (lambda names: "RANK" in names and "WORLD_SIZE" in names, _plain),
    (
        lambda names: "OMPI_COMM_WORLD_RANK" in names or "OMPI_COMM_WORLD_SIZE" in names,
        _mpi("OMPI_COMM_WORLD_", "OMPI_COMM_WORLD_LOCAL_SIZE", "PMIX_NAMESPACE"),
    ),
    (lambda names: "MPI_LOCALNRANKS" in names and "PMI_RANK" in names, _PMI),
    (_in_slurm_step, _slurm),
    (lambda names: "PMI_RANK" in names or "PMI_SIZE" in names, _PMI),
)
