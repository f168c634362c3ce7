"""Samples asked for and given through the store, for data that lie on one host only.

data              what there is: training and evaluation data with their lengths
data/wanted       a queue of requests, in JSON
data/given/ID     a queue with the answer to a request, in pieces: the first says how many follow, in JSON
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from unisono.errors import JobError
from unisono.errors.failure import failure
from unisono.frameworks.registry import Framework, families, framework
from unisono.hosts.sample_bytes import decoded, encoded
from unisono.hosts.store import START_SECONDS, Store, StoreAddress
from unisono.job import Job
from unisono.runtime.loader.samples import Datasets, RemoteData, samples_at
from unisono.values.text import excerpt
from unisono.values.untrusted import Malformed, Maybe, check, parsed

MOST_BYTES = 4 << 20
"""Of a piece: the store takes no value above 8 MiB."""

WANTED = {"id": str, "data": [str], "indices": [int], "keys": Maybe([int])}
HEAD = {"pieces": Maybe(int), "message": Maybe(str), "traceback": Maybe(str)}
"""What hosts say to each other, as `check` says it."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.0005, 0.01
LOOK_SECONDS = 1.0


def pausing(is_there: Callable[[], bool], look: Callable[[], None]) -> None:
    """Return once something is there; `look` is called now and then, and may raise.

    The store's own waiting is no choice: a client whose wait has run out of time is of no use any more.
    """
    pause, looked = SHORTEST_PAUSE, time.monotonic()
    while not is_there():
        if time.monotonic() - looked > LOOK_SECONDS:
            look()
            looked = time.monotonic()
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def check_indices(indices: Sequence[int], length: int) -> None:
    """Samples are counted from 0.

    Raises:
        Malformed: one is not there; a negative index would be another one's.
    """
    for index in indices:
        if not 0 <= index < length:
            raise Malformed(f"sample {index} of {length} was asked for")


class SampleServer:
    """Gives samples to the hosts that lack them.

    Args:
        store: a client of the store.
        host: this host's number.
        data: where the samples are.
        framework: whose they are.
    """

    def __init__(self, store: Store, host: int, data: Datasets, framework: Framework) -> None:
        self._raw, self._host, self._functions = store.raw, host, framework.data
        self._named: dict[tuple[str, ...], Any] = {("evaluation", n): d for n, d in data.evaluation.items()}
        self._named["training",] = data.training
        evaluation = {name: len(held) for name, held in data.evaluation.items()}
        store.put("data", {"family": framework.name, "training": len(data.training), "evaluation": evaluation})

    def serve(self) -> None:
        """Answer for ever."""
        while True:
            self.answer_next()

    def answer_next(self) -> None:
        """Wait for a request and answer it."""
        pausing(lambda: self._raw.queue_len("data/wanted") > 0, lambda: None)
        with suppress(Malformed):  # who asks so can be told nothing
            self.answer(check(parsed(self._raw.queue_pop("data/wanted")), WANTED))

    def answer(self, wanted: Mapping[str, Any]) -> None:
        """Answer one request."""
        try:
            keys = dict(zip(wanted["indices"], wanted["keys"], strict=True)) if wanted["keys"] else None
            held = self._named[tuple(wanted["data"])]
            check_indices(wanted["indices"], len(held))
            samples = samples_at(held, wanted["indices"], keys.__getitem__ if keys else None, self._functions)
            data = encoded(samples, self._functions)
            pieces = [data[at : at + MOST_BYTES] for at in range(0, len(data), MOST_BYTES)]
            head: dict[str, Any] = {"pieces": len(pieces)}
        except Exception as error:
            head, pieces = asdict(failure(error, f"read on host {self._host}")), []
        for piece in (json.dumps(head).encode(), *pieces):
            self._raw.queue_push(f"data/given/{wanted['id']}", piece)


@dataclass(frozen=True)
class DataHost:
    """The host that has the data, as another one sees it; opens the store anew in every process.

    Attributes:
        store: where hosts meet.
        host: the number of the host that has the data.
    """

    store: StoreAddress
    host: int

    def with_remote_data(self, job: Job) -> Job:
        """The job with data that are read there."""
        evaluation = None if job.evaluation is None else self.evaluation
        return replace(job, data=self.training, evaluation=evaluation)

    def training(self) -> RemoteData:
        """What stands for `job.data`."""
        client = _Client(self)
        return _Remote(client, ("training",), client.about["training"])

    def evaluation(self) -> Mapping[str, RemoteData]:
        """What stands for `job.evaluation`."""
        client = _Client(self)
        return {name: _Remote(client, ("evaluation", name), n) for name, n in client.about["evaluation"].items()}


class _Client:
    """Asks for samples; every process has a client of its own."""

    def __init__(self, data_host: DataHost) -> None:
        self._data_host, self._process = data_host, -1
        self._held: Store | None = None
        started = time.monotonic()

        def look() -> None:
            self._look()
            if time.monotonic() - started > START_SECONDS:
                raise JobError(
                    f"the data lie on host {data_host.host}, as --data-host says; it has not offered them for "
                    f"{START_SECONDS:g} s. See what it says itself."
                )

        with self._reaching():
            pausing(lambda: self._store.raw.check(["data"]), look)
            self.about: Mapping[str, Any] = self._store.find("data")
            if self.about["family"] not in {family.package for family in families()}:
                raise Malformed(f"no framework is called {excerpt(self.about['family'])}")

    @property
    def _store(self) -> Store:
        if self._held is None or self._process != os.getpid():
            self._process, self._held = os.getpid(), self._data_host.store.client()
        return self._held

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise JobError(
                f"the data lie on host {self._data_host.host}; where samples are asked for cannot be reached any more: "
                f"{str(error).splitlines()[0]}"
            ) from error
        except Malformed as error:
            raise JobError(
                f"the data lie on host {self._data_host.host}; what came from there is not what was asked for: "
                f"{error}. Is the same version of Unisono on all hosts?"
            ) from error

    def _look(self) -> None:
        if (failed := self._store.find("failure")) is not None:
            raise JobError(f"host {failed['host']}: {failed['message']}", failed["traceback"])

    def samples(self, name: tuple[str, ...], indices: Sequence[int], keys: Sequence[int] | None) -> list[Any]:
        """See `RemoteData`."""
        own = uuid.uuid4().hex
        wanted = {"id": own, "data": name, "indices": [*indices], "keys": keys}
        with self._reaching():
            head, data = self._asked(json.dumps(wanted), f"data/given/{own}")
            if head.get("message") is not None:
                raise JobError(head["message"], head["traceback"] or "")
            samples = decoded(data, framework(self.about["family"]).data)
            if not isinstance(samples, list) or len(samples) != len(indices):
                raise Malformed(f"not {len(indices)} samples")
        return samples

    def _asked(self, wanted: str, answer: str) -> tuple[Mapping[str, Any], bytes]:
        raw = self._store.raw
        raw.queue_push("data/wanted", wanted)
        pausing(lambda: raw.queue_len(answer) > 0, self._look)
        head = check(parsed(raw.queue_pop(answer)), HEAD)
        return head, b"".join(raw.queue_pop(answer) for _ in range(head.get("pieces") or 0))


@dataclass
class _Remote(RemoteData):
    """Data of a job that lie on another host."""

    client: _Client
    name: tuple[str, ...]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.samples([index], None)[0]

    def samples(self, indices: Sequence[int], key_of: Callable[[int], int] | None) -> list[Any]:
        """See `RemoteData`."""
        keys = None if key_of is None else [key_of(index) for index in indices]
        return self.client.samples(self.name, indices, keys)
