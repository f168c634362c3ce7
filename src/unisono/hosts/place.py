"""Where one host stands among those that a launcher or Ray has started, and how it takes part with them."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.errors import UsageError

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Place:
    """One host's place. Each host runs one Unisono, which forks the host's workers.

    Attributes:
        host: this host's number; host 0 keeps the run folder.
        hosts: how many hosts the run begins with.
        address: where the store is served through which hosts find each other: a host name or an IP address.
        port: its port.
        serves: whether this process serves the store; else the launcher does (torchrun's agent), or another host.
        prefix: put before every key, so that a restarted run finds nothing of its predecessor's.
        launcher: who started it, as people call it: "torchrun", "srun", "mpirun", "Kubernetes", "Ray".
        name: how people know this host, in logs and errors.
        driven: whether another process (Ray's driver) decides who belongs to the run; else host 0 does.
    """

    host: int
    hosts: int
    address: str
    port: int
    serves: bool
    prefix: str
    launcher: str
    name: str
    driven: bool = False

    @property
    def replaces(self) -> bool:
        """Whether the launcher starts another host in place of one that was interrupted; 0 would be an end to it."""
        return self.launcher == "Kubernetes"


@dataclass(frozen=True)
class Hosts:
    """How this process takes part in a run over several hosts.

    Attributes:
        place: where it stands among them.
        interface: the network interface between hosts; None = the one that leads to where they meet.
        timeout: seconds after which a silent host is lost.
        data_host: the number of the host that reads the data for all; None = each reads its own.
        ports: those on which hosts may listen; None = any.
        min_hosts: with fewer hosts the others wait; None = a run begins with all, and goes on with any.
    """

    place: Place
    interface: str | None = None
    timeout: float = TIMEOUT_SECONDS
    data_host: int | None = None
    ports: range | None = None
    min_hosts: int | None = None

    def __post_init__(self) -> None:
        if self.data_host is not None and not 0 <= self.data_host < self.place.hosts:
            raise UsageError(
                f"data_host is the number of one of the hosts, 0 to {self.place.hosts - 1}; received {self.data_host}."
            )

    @property
    def serves_data(self) -> bool:
        """Whether this host reads the data for the others."""
        return self.data_host == self.place.host
