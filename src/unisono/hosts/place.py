"""Where one host stands among those that a launcher or Ray has started."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.errors import UsageError


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

    def check(self, data_host: int | None) -> None:
        """Hold the number of the host that has the data to how many hosts there are.

        Raises:
            UsageError: there is no such host.
        """
        if data_host is not None and data_host >= self.hosts:
            raise UsageError(
                f"data_host is the number of one of the hosts, 0 to {self.hosts - 1}; received {data_host}."
            )
