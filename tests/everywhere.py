"""A job in each situation in which its bits must not change; what one process computes is what all are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import unisono
from faults import Fault, Script, hash_of, run, undisturbed
from unisono import Job
from unisono.runtime.supervisor.outcome import raise_failure

DEATHS = (Fault("microbatch", 2, 0), Fault("update", 3, 0), Fault("commit", 4, 0))


def hold_to_one_hash(
    job: Job, folder: Path, *, all_of_them: bool = False, deaths: tuple[Fault, ...] = DEATHS
) -> str:  # fmt: skip
    """Train a job in one process, and on two workers, the first of whom dies three times: the same bits and records.

    Args:
        job: the job, of six steps or more.
        folder: an empty one.
        all_of_them: on one and three workers too, and stopped in the middle and resumed on another number.
        deaths: what happens to the two workers.

    Returns:
        The hash of the parameters and of the optimizer's state, for golden values.
    """
    expected, records = undisturbed(job)
    script = Script(folder, deaths)
    for workers, hook in [(2, {"phase": script}), *([(1, {}), (3, {})] if all_of_them else [])]:
        outcome, found, _ = run(job, workers, **hook)
        raise_failure(outcome)
        assert hash_of(outcome) == expected, f"{workers} workers"
        assert _results(found) == _results(records)
    assert script.struck == len(deaths)
    if all_of_them:
        steps = records[-1]["step"]
        first = unisono.train(replace(job, steps=steps // 2), out=folder / "stopped", workers=2)
        resumed = unisono.train(job, resume=first.directory, workers=3)
        assert resumed.parameters_sha256 == expected[: len(expected) // 2], "resumed"
    return expected


def _results(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each record the values that belong to the result."""
    wanted = lambda name: name in ("step", "loss") or name.startswith("evaluation")  # noqa: E731
    return [{name: value for name, value in record.items() if wanted(name)} for record in records]
