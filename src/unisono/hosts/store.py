"""Where hosts find each other: a store of torch.distributed, to which each host and the deciding process are clients.

Everything in it is JSON text under these keys, each term's (see `terms`) under its number; nothing is pickled.

    arrivals             how many hosts have come; a host's number is its count
    news                 grows with everything that hosts or who decides should look at
    NUMBER/hello         the launcher's number for a host, its order, name and address of a host
    NUMBER/beat          grows while the host lives
    NUMBER/answer        the latest call that it has heard
    NUMBER/left          it has finished
    NUMBER/gone          it leaves while the others go on, and why (`Shutdown.word`)
    call                 the generation whose hosts come to rest and report
    report/G/NUMBER      what a host says of itself before generation G
    broken/G/NUMBER      a host of generation G cannot reach others (their numbers); whether by new connections either
    NUMBER/account       what it would compute, of what (see `differences`)
    NUMBER/refused       why it cannot train with the others, who go on without it
    NUMBER/unreachable   it has no place among the hosts, as it cannot reach some of them (their names)
    known/G              who had come before it was decided who belongs to generation G
    world/G              the hosts of generation G with their reports, in order
    waiting              for whom hosts wait that have been called together
    ends                 the run ends: who was asked to, and why (`Shutdown.word`)
    beginning            the run folder as host 0 calls it, and when the run in it was begun
    begun                grows with every run that has begun in this store; it belongs to all of them
    key                  what is in run.json of the run's folder: who reads it there sees the same folder
    failure              why the run fails, or cannot begin: host, message, traceback
    heard                how many hosts have heard that
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from unisono.errors import JobError, UsageError, way_to_install
from unisono.hosts.differences import ACCOUNT
from unisono.hosts.place import Place
from unisono.values.text import excerpt
from unisono.values.untrusted import Malformed, Maybe, check, parsed

_REPORT = {
    "name": str, "workers": int, "rounds": int, "digest": str, "account": str, "serves_data": bool, "memory": dict,
    "latest": Maybe(list),
}  # fmt: skip

KINDS: Mapping[str, Any] = {
    "term": {"number": int, "origin": int, "by": str, "seconds": float, "signs": int, "over": bool},
    "hello": {"host": int, "order": int, "name": str, "address": str},
    "beat": int,
    "answer": int,
    "left": bool,
    "gone": int,
    "call": int,
    "report": _REPORT,
    "broken": {"hosts": [int], "by_new": bool},
    "account": ACCOUNT,
    "refused": str,
    "unreachable": [str],
    "known": [int],
    "world": [{"number": int, **_REPORT}],
    "waiting": {"generation": int, "there": [str], "coming": [str], "missing": [int], "wanted": int},
    "ends": {"host": str, "why": int},
    "beginning": {"folder": str, "begun": str},
    "key": str,
    "failure": {"host": str, "message": str, "traceback": str, "usage": bool},
    "data": {"family": str, "training": int, "evaluation": {str: int}},
}
"""What others leave there, as `check` says it, by the first word of the key that is no number."""

OWNER = "unisono's run"
"""The key, before all prefixes, by which a store that Unisono serves says whose it is: its prefix."""

START_SECONDS = 300.0
"""How long hosts may take to find the store when they start."""


def torch_distributed() -> Any:
    """torch.distributed, which carries all bytes between hosts.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost host is told in our words, not by a C++ stack
    try:
        import torch.distributed
    except ImportError as error:
        raise UsageError(
            "several hosts exchange bytes through torch.distributed, whatever the model's framework; PyTorch is not "
            f"installed here. Install it: {way_to_install('torch')}."
        ) from error
    return torch.distributed


class NoStore(JobError):
    """Where the store should be is none."""


class AnotherRun(JobError):
    """Where the store should be is another run's."""


class Store:
    """One client of the store; every value is JSON.

    Args:
        place: where it is.
        address: this host's address, for the one that serves.
        serve: serve it from this process; it lives as long as this object.
        timeout: seconds that an answer may take.
        patience: seconds that the first one may take.

    Raises:
        JobError: it cannot be served.
        NoStore, AnotherRun: it cannot be reached.
    """

    def __init__(
        self, place: Place, address: str, serve: bool, timeout: float, patience: float = START_SECONDS
    ) -> None:
        distributed = torch_distributed()
        options: dict[str, Any] = {}
        if serve:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                # Bound here, to the one interface: the store itself would listen on all of them.
                listener = socket.create_server((address, place.port), family=family)
            except OSError as error:
                raise JobError(
                    f"host {place.host} serves the store at {address}:{place.port}, and cannot: {error.strerror}. Give "
                    "the launcher another port (MASTER_PORT)."
                ) from error
            options = {"master_listen_fd": listener.detach(), "is_master": True}
        where = address if serve else place.address
        try:
            raw = distributed.TCPStore(
                where, place.port, wait_for_workers=False, timeout=timedelta(seconds=patience), **options
            )
        except (RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise NoStore(f"hosts meet at {where}:{place.port}, which cannot be reached: {why}") from error
        raw.set_timeout(timedelta(seconds=timeout))
        if serve:
            raw.set(OWNER, place.prefix)
        elif raw.check([OWNER]) and not f"{place.prefix}/".startswith(f"{(owner := raw.get(OWNER).decode())}/"):
            raise AnotherRun(
                f"at {where}:{place.port} the hosts of another run meet ({excerpt(owner)}), where those of this one "
                f"({excerpt(place.prefix)}) were to. Give the launcher another port (MASTER_PORT)."
            )
        self.raw = distributed.PrefixStore(place.prefix, raw) if place.prefix else raw

    def put(self, key: str, value: Any) -> None:
        """Leave a value."""
        self.raw.set(key, json.dumps(value))

    def find(self, key: str) -> Any:
        """A value, or None.

        Raises:
            Malformed: it is not of the key's kind.
        """
        return self._checked(key, self.raw.get(key)) if self.raw.check([key]) else None

    def find_all(self, keys: Sequence[str]) -> list[Any]:
        """Values that are there for certain, in one go; see `find`."""
        values = self.raw.multi_get([*keys]) if keys else []
        return [self._checked(key, value) for key, value in zip(keys, values, strict=True)]

    def _checked(self, key: str, value: bytes) -> Any:
        kind = KINDS[next(word for word in key.split("/") if not word.isdigit())]
        try:
            return check(parsed(value), kind)
        except Malformed as error:
            raise Malformed(f"{key!r}, where hosts meet, is not what Unisono leaves there: {error}") from error

    def exchange(self, key: str, before: Any, after: Any) -> Any:
        """Put a value in another one's place, if that is there still (None: if there is none).

        Returns:
            The value that is there then.

        Raises:
            Malformed: it is not of the key's kind.
        """
        expected = "" if before is None else json.dumps(before)
        return self._checked(key, self.raw.compare_set(key, expected, json.dumps(after)))

    def within(self, prefix: str) -> Store:
        """The keys of this store that begin with a prefix."""
        part = copy(self)
        part.raw = torch_distributed().PrefixStore(prefix, self.raw)
        return part

    def count(self, key: str, more: int = 0) -> int:
        """Add to a counter; returns it."""
        return int(self.raw.add(key, more))

    def announce(self, key: str, value: Any) -> None:
        """Leave a value that others should look at."""
        self.put(key, value)
        self.count("news", 1)


@dataclass(frozen=True)
class StoreAddress:
    """Where the store is, for a process that is to be a client of it.

    Attributes:
        place: where hosts meet.
        own: this host's address on the interface between hosts.
        timeout: seconds that an answer may take.
    """

    place: Place
    own: str
    timeout: float

    def client(self) -> Store:
        """A new client; its process and its thread have it for themselves."""
        return Store(self.place, self.own, False, self.timeout)
