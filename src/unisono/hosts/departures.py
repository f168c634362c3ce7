"""What people read of hosts that are told to go, or that come: each once, on every host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unisono.runtime.rules.shutdown import Shutdown
from unisono.values.text import printable


class Departures:
    """Says who goes.

    Args:
        message: shows a text.
    """

    def __init__(self, message: Callable[[str], None]) -> None:
        self._message = message
        self._mentioned: set[str] = set()
        self._has_joined = False

    def say(self, text: str) -> None:
        """Say something that holds names from other hosts."""
        self._message(printable(text))

    def leaving(self, name: str, shutdown: Shutdown) -> None:
        """A host is to leave, as others go on without it."""
        self._once(name, f"host {name} {shutdown}: it leaves after the step at hand; a second signal ends it")

    def ending(self, name: str, shutdown: Shutdown, hosts: Sequence[Mapping[str, Any]]) -> None:
        """The run ends, and why it does not go on without this host of those."""
        has = {host["name"]: ", which has the data," for host in hosts if host["serves_data"]}
        if hosts and shutdown.reason == "signal":
            has.setdefault(hosts[0]["name"], ", which keeps the run folder,")
        what = f"host {name}{has.get(name, '')} {shutdown}"
        self._once(name, f"{what}: the run ends after the step at hand, with a checkpoint")

    def left(self, gone: Mapping[str, Shutdown], count: int) -> None:
        """Hosts have left, and so many go on."""
        for name, shutdown in gone.items():
            self._once(name, f"host {name} {shutdown}; {count} host{'s go' if count > 1 else ' goes'} on")

    def joined(self, hosts: Sequence[Mapping[str, Any]], own: int) -> None:
        """These hosts are together, this one at a place among them."""
        self._mentioned -= {host["name"] for host in hosts}  # one may come again
        count = f"{len(hosts)} host{'s' if len(hosts) > 1 else ''} with their workers"
        if own == 0:
            each = ", ".join(f"{host['name']} ({host['workers']})" for host in hosts)
            self.say(f"{count}: {each}")
        elif not self._has_joined:
            self.say(f"one of {count}")
        self._has_joined = True

    def _once(self, name: str, text: str) -> None:
        if name not in self._mentioned:
            self._mentioned.add(name)
            self.say(text)
