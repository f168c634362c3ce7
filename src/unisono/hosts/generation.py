"""The hosts that train together until one is lost or comes, as each of them sees the others; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unisono.errors.failure import Failure
from unisono.hosts.differences import difference


@dataclass(frozen=True)
class Generation:
    """The hosts of a generation.

    Attributes:
        number: in which term, and which generation of it.
        hosts: what each host said of itself, in order.
        own: this host's place among them; None = it does not belong to them any more.
        accounts: each host's account (see `differences`), where they are not all the same.
    """

    number: tuple[int, int]
    hosts: tuple[Mapping[str, Any], ...]
    own: int | None
    accounts: tuple[Mapping[str, Any], ...] = ()

    @property
    def source(self) -> int:
        """The place of the first host that has done as many rounds as any: all others get its state."""
        return max(range(len(self.hosts)), key=lambda place: (self.hosts[place]["rounds"], -place))

    @property
    def receivers(self) -> tuple[int, ...]:
        """The places of those that have another state."""
        wanted = self._state(self.source)
        return tuple(place for place in range(len(self.hosts)) if self._state(place) != wanted)

    def _state(self, place: int) -> tuple[int, str]:
        return self.hosts[place]["rounds"], self.hosts[place]["digest"]

    def misfit(self, most: int, data_host: int | None) -> Failure | None:
        """Why these hosts cannot go on together, or None.

        Args:
            most: microbatches of a batch that are not empty.
            data_host: the number of the host that has the data, where it is one.
        """
        if (problem := self.difference()) is not None:
            return Failure(problem, usage=True)
        if data_host is not None and not any(host["serves_data"] for host in self.hosts):
            return Failure(
                f"the data lie on host {data_host}, as --data-host says, and it is lost. Resume the run from its "
                "checkpoint."
            )
        if (count := len(self.hosts)) > most:
            return Failure(
                f"every host needs a microbatch; a batch of this job has {most} non-empty ones, and there are {count} "
                f"hosts. Start fewer hosts, or set microbatches={count} or more (another result).",
                usage=True,
            )
        if self.hosts[self.source]["rounds"] < 0:
            return Failure("no host has a whole state any more. Resume the run from its checkpoint.")
        return None

    def difference(self) -> str | None:
        """Why these hosts cannot train together, or None.

        >>> one, two = ({"name": name, "rounds": 3, "digest": name} for name in "ab")
        >>> Generation((1, 1), (one, two), 0).difference().partition(";")[0]
        'hosts that have done the same steps have the same state'
        """
        first, *others = self.hosts
        for place, other in enumerate(others, 1):
            names = (str(first["name"]), str(other["name"]))
            found = difference(self.accounts[0], self.accounts[place], names) if self.accounts else None
            if found is not None:
                return found
            if first["rounds"] == other["rounds"] > 0 and first["digest"] != other["digest"]:
                return (
                    "hosts that have done the same steps have the same state; after "
                    f"{first['rounds']} rounds host {names[1]!r} has another one than host {names[0]!r}, so they "
                    "computed something else. Resume the run from its checkpoint, without one of them."
                )
        return None


def waiting_text(waiting: Mapping[str, Any]) -> str:
    """For whom hosts wait.

    >>> waiting_text({"there": ["a-0"], "coming": ["b-1"], "missing": [2], "wanted": 3})
    'waiting for hosts (3 wanted): a-0 is there, b-1 is getting ready, not yet there: 2'
    >>> waiting_text({"there": ["a-0", "b-1"], "coming": [], "missing": [], "wanted": 3})
    'waiting for hosts (3 wanted): a-0 and b-1 are there'
    """
    parts = [
        f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} {what}"
        for names, what in ((waiting["there"], "there"), (waiting["coming"], "getting ready")) if names
    ]  # fmt: skip
    if waiting["missing"]:
        parts.append(f"not yet there: {' and '.join(map(str, waiting['missing']))}")
    return f"waiting for hosts ({waiting['wanted']} wanted): {', '.join(parts)}"
