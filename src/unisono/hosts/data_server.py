"""The process that gives a host's data to the hosts that lack them: `python -m unisono.hosts.data_server FILE PARENT`.

It opens the data itself, a second time on that host.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from unisono.errors import JobError
from unisono.errors.failure import Failure, failure
from unisono.frameworks.registry import made
from unisono.hosts.sample_store import SampleServer
from unisono.hosts.store import StoreAddress
from unisono.runtime.preparation.open_data import open_data
from unisono.runtime.processes.channel import Channel, joined, started
from unisono.runtime.processes.source import Source
from unisono.runtime.processes.start import environment


@dataclass(frozen=True)
class Offer:
    """What such a process begins with.

    Attributes:
        source: the job whose data they are.
        store: where hosts meet.
        folder, path: where to stand, and where modules are.
    """

    source: Source
    store: StoreAddress
    folder: str
    path: tuple[str, ...]


class DataServer:
    """That process, as the one sees it that starts it.

    Args:
        source: the job whose data they are.
        store: where hosts meet.
    """

    def __init__(self, source: Source, store: StoreAddress) -> None:
        self._process, self._channel = started("unisono.hosts.data_server", env=environment(), process_group=0)
        self._channel.send(Offer(source, store, str(Path.cwd()), tuple(sys.path)))

    def trouble(self) -> Failure | None:
        """Why it has ended, if it has."""
        if (status := self._process.poll()) is None:
            return None
        try:
            reason: Failure
            reason, _ = self._channel.receive()
        except (EOFError, ConnectionError):
            return Failure(f"the process that gives the data to other hosts has ended ({status})")
        return reason

    def close(self) -> None:
        """End it."""
        self._channel.close()
        self._process.kill()
        self._process.wait()


def main(channel: Channel) -> None:
    """Give samples until there is nobody to give them to."""
    offer: Offer
    offer, _ = channel.receive()
    os.chdir(offer.folder)
    sys.path[:] = offer.path
    try:
        job = offer.source.read().make()
        framework, _ = made(job, 1)
        data = open_data(job, framework.data)
    except Exception as error:
        channel.send(failure(error, "where the data are opened for other hosts"))
        return
    try:
        SampleServer(offer.store.client(), offer.store.place.host, data, framework).serve()
    except (JobError, RuntimeError) as error:
        channel.send(Failure(f"the process that gives the data to other hosts cannot reach them: {error}"))


if __name__ == "__main__":
    main(joined())
