"""What a step's record says of where its time went."""

from __future__ import annotations

import time
from typing import Any

import jobs
from faults import run


class SlowToRead:
    """Samples that take longer to read than to compute with."""

    def __init__(self) -> None:
        self.samples = jobs.dataset()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.01)
        return self.samples[index]


def test_waiting_for_samples_is_told_apart_from_computing() -> None:
    _, records, _ = run(jobs.make(steps=12, data=SlowToRead()), 2)
    late = [record for record in records if record["step"] > 4 and "loss" in record]  # the first were read ahead
    spent = {part: sum(sum(record[f"{part}_seconds"]) for record in late) for part in ("data", "compute")}
    assert spent["data"] > spent["compute"]
    assert spent["data"] <= 2 * sum(record["step_seconds"] for record in late)
