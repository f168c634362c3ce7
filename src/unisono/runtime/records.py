"""Records of rounds: left by slots in shared memory, merged and handed on by the supervisor."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from unisono.memory.words import Words
from unisono.runtime.prepare import Described
from unisono.runtime.state import RECORDS, HostState
from unisono.runtime.worker import DRAINED, STOP


def merged(rounds: list[dict[str, Any]]) -> dict[str, Any] | None:
    """One record of what the slots wrote about a round; None for a wave that ends nothing."""
    record = dict(rounds[0])
    seconds = record.pop("round_seconds")
    record.pop("times")
    if not record:
        return None
    if "samples" in record:
        samples = record.pop("samples")
        record["samples_per_second"] = samples / seconds
        record["step_seconds"] = seconds
        for index, name in enumerate(("compute_seconds", "wait_seconds", "update_seconds")):
            record[name] = [entry["times"][index] for entry in rounds]
    return record


class Records:
    """Reads the records that slots leave in shared memory, in round order."""

    def __init__(self, described: Described, state: HostState) -> None:
        self._segment = state.segment
        self._slots = described.layout.shape.slots
        self._committed = Words(state.segment, "committed", 0.0)
        self._control = Words(state.segment, "control", 0.0)
        self.drained = 0

    @property
    def committed(self) -> int:
        """Rounds that every slot has committed."""
        return min(self._committed.get(slot) for slot in range(self._slots))

    def drain(self, to: Callable[[dict[str, Any]], None]) -> None:
        """Hand on every finished round and give its entry free."""
        for number in range(self.drained, self.committed):
            record = merged([self._read(slot, number % RECORDS) for slot in range(self._slots)])
            self.drained = number + 1
            self._control.publish(DRAINED, self.drained)
            if record is not None:
                to(record)

    def _read(self, slot: int, entry: int) -> dict[str, Any]:
        length = int(self._segment["record_lengths"][slot, entry])
        return json.loads(bytes(self._segment["records"][slot, entry, :length]))  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Ask slot 0 to stamp the next plan with a stop."""
        self._control.publish(STOP, 1)
