"""Environment variables of a launcher, checked as they are read."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from unisono.errors import UsageError
from unisono.values.bounds import MOST_HOSTS, number_in
from unisono.values.text import excerpt


@dataclass(frozen=True)
class Variables:
    """What a launcher has set.

    Attributes:
        launcher: who, as people call it.
        values: the whole environment.
        way_out: how to start it so that all is there.

    >>> Variables("torchrun", {"RANK": "1", "WORLD_SIZE": "2"}, "").standing("RANK", "WORLD_SIZE")
    (1, 2)
    """

    launcher: str
    values: Mapping[str, str]
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

    def contradict(self, one: str, other: str) -> UsageError:
        """Two variables that say different things."""
        return UsageError(
            f"{one} and {other} must agree; received {one}={self.values.get(one)} and "
            f"{other}={self.values.get(other)}. {self.way_out}"
        )
