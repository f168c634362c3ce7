"""Records of rounds: left by slots in shared memory, merged and handed on by the supervisor."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from unisono.runtime.rules.balance import laggards
from unisono.runtime.rules.plan import Plan
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import RECORDS


def merged(rounds: list[dict[str, Any]], slow: dict[int, float]) -> dict[str, Any] | None:
    """One record of what the slots wrote about a round; None for a wave that ends nothing and leaves no events."""
    record = dict(rounds[0])
    seconds = record.pop("round_seconds")
    events = [entry.pop("events", []) for entry in rounds]
    for name in ("times", "slots", "events"):
        record.pop(name, None)
    if any(events):
        record["events"] = events
    if not record:
        return None
    if "samples" in record:
        samples = record.pop("samples")
        record["samples_per_second"] = samples / seconds
        record["step_seconds"] = seconds
        for index, name in enumerate(("compute_seconds", "data_seconds", "wait_seconds", "update_seconds")):
            record[name] = [entry["times"][index] for entry in rounds]
        if slow:
            record["slow_workers"] = {str(slot): factor for slot, factor in slow.items()}
    return record


class Records:
    """Reads the records that slots leave in shared memory, in round order.

    Args:
        state: the host's shared state.
        first: the round that the run begins with.
    """

    def __init__(self, state: HostState, first: int = 0) -> None:
        self._state, self._segment = state, state.segment
        self._drained = first
        self.source = 0
        """The slot that tells of what a person sees."""
        self.latest: tuple[int, dict[str, Any]] | None = None
        """The last record that was handed on, and rounds done then."""

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        while True:  # a plan is being written only while another one is in force
            plan = self._state.plans.in_force()
            if plan is not None:
                return plan

    def drain(self, to: Callable[[dict[str, Any]], None]) -> None:
        """Hand on the record of every finished round and give its entry free."""
        plan = self.plan
        whole = self._state.layout.shape.stages == 1
        slow = laggards(self._segment["pace"][: plan.slots].tolist()) if whole else {}  # else they are pipes' paces
        for number in range(self._drained, plan.round):
            first = self._read(self.source, number % RECORDS)
            others = [self._read(slot, number % RECORDS) for slot in range(1, first["slots"])]
            record = merged([first, *others], slow)
            self._drained = number + 1
            self._state.control.publish(Control.DRAINED, self._drained)
            if record is not None:
                self.latest = (number + 1, {name: value for name, value in record.items() if name != "events"})
                to(record)

    def _read(self, slot: int, entry: int) -> dict[str, Any]:
        length = int(self._segment["record_lengths"][slot, entry])
        return json.loads(bytes(self._segment["records"][slot, entry, :length]))  # type: ignore[no-any-return]
