"""What hosts agree on in each exchange, in shared memory: the same in all of them, so that their next plans are too."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.gradients.hosts import host_shares
from unisono.runtime.rules.shutdown import Shutdown
from unisono.runtime.state.host_state import HostState
from unisono.values.arrays import Array

HEAD = 3
"""Numbers before the workers of each host, and why each is to go: this host, how many hosts, copies asked for."""


class HostShares:
    """The hosts of a run and what they last agreed on; one host has nobody to agree with.

    Args:
        state: this host's shared state.
    """

    def __init__(self, state: HostState) -> None:
        self._area = state.segment["host_shares"]
        self._shape = state.layout.shape

    def begin(self, host: int, workers: Sequence[int]) -> None:
        """The supervisor: this is host `host` of those with so many workers each."""
        self._area[HEAD + len(workers) :] = 0
        self._area[:HEAD] = host, len(workers), 0
        self._area[HEAD : HEAD + len(workers)] = workers

    def agree(self, workers: Sequence[int], shutdowns: Sequence[int], asked: int) -> None:
        """After an exchange: what the next plan is made of.

        Args:
            workers: of each host.
            shutdowns: why each host is to go (`Shutdown.word`), or 0.
            asked: copies asked for.
        """
        self._area[2] = asked
        self._area[HEAD : HEAD + 2 * len(workers)] = [*workers, *shutdowns]

    @property
    def several(self) -> bool:
        """Whether there are other hosts."""
        return bool(self._area[1] > 1)

    @property
    def host(self) -> int:
        """This host's number among those that are there."""
        return int(self._area[0])

    @property
    def shutdowns(self) -> list[Shutdown | None]:
        """Why each host is to go, if it is."""
        return [Shutdown.of(int(word)) for word in self._of_hosts(1)]

    @property
    def stop(self) -> bool:
        """Whether all come to rest before the next round: the run ends, or some leave and the others meet anew."""
        return bool(self._of_hosts(1).any())

    @property
    def asked(self) -> int:
        """Copies that the hosts have asked for."""
        return int(self._area[2])

    @property
    def workers(self) -> list[int]:
        """Workers of each host."""
        found: list[int] = self._of_hosts(0).tolist()
        return found

    def _of_hosts(self, row: int) -> Array:
        hosts = int(self._area[1])
        return self._area[HEAD + row * hosts :][:hosts]

    def of_round(self, training: bool) -> tuple[int, ...]:
        """The hosts' shares of a round's microbatches; () where this host computes all of them.

        Args:
            training: whether the round trains. Metric objects are fed on every host, so with them each evaluates all.
        """
        shared = self.several and (training or not self._shape.object_metrics)
        return host_shares(self._shape.microbatches, self.workers) if shared else ()

    def own(self, hosts: Sequence[int]) -> range:
        """This host's microbatches, of a round that is shared out so."""
        return range(*hosts[self.host : self.host + 2]) if hosts else range(self._shape.microbatches)
