"""What can be seen of a job, to tell whether a checkpoint is one of the same job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unisono.errors import UsageError
from unisono.runtime.preparation.outline import JobFacts
from unisono.runtime.preparation.prepared import Described

FIXED = ("parameters", "optimizers", "batch_size", "seed", "order", "drop_last", "data_length")
"""Without these the same a checkpoint's position or values mean nothing."""

FREE = ("steps", "code")
"""May change: more epochs, fewer steps; other code (see `changed_files`) may do the same, so it is told."""

KNOWN = ("data",)
"""Compared only where both are known: a checkpoint's digest may be empty."""


def job_digest(job: JobFacts, described: Described) -> dict[str, Any]:
    """The visible parts of a job, as plain values."""
    description = described.layout.description
    return {
        "parameters": {spec.name: f"{spec.dtype}{list(spec.shape)}" for spec in description.parameters},
        "optimizers": [settings["class"] for settings in description.optimizers],
        "hyperparameters": [settings["groups"] for settings in description.optimizers],
        "data_length": described.data_length,
        "data": described.samples,
        **job.identity(),
        "steps": described.program.steps,
        "code": {name: file.digest for name, file in described.code.items()},
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any], allowed: bool, where: str) -> dict[str, Any]:
    """What differs between a checkpoint's job and this one: name → [before, now].

    Args:
        before: the checkpoint's digest.
        now: this job's.
        allowed: whether a change of the result is accepted.
        where: the checkpoint, as people know it.

    Raises:
        UsageError: a difference that is not accepted.

    >>> changes({"seed": 0, "steps": 5}, {"seed": 0, "steps": 9}, False, "run/checkpoints/step-5")
    {}
    >>> changes({"seed": 0, "data": ""}, {"seed": 0, "data": "5f"}, False, "run/checkpoints/step-5")
    {}
    """
    found = {
        name: _difference(before.get(name), now.get(name))
        for name in now
        if name not in FREE and before.get(name) != now.get(name)
        and not (name in KNOWN and not (before.get(name) and now.get(name)))
    }  # fmt: skip
    shown = "; ".join(f"{name}: {old} → {new}" for name, (old, new) in found.items()) + f" ({where} → this job)"
    if any(name in FIXED for name in found):
        raise UsageError(
            f"a run is resumed with the same model, optimizer classes, data and batches; received {shown}. "
            "Start a new run with another --out (its model may load these parameters)."
        )
    if found and not allowed:
        raise UsageError(
            f"a resumed run gives the bits of the undisturbed one only if its job is the same; received {shown}. "
            f"Change it back{_written(found)}, or accept another result with --allow-change."
        )
    return found


def _written(found: Mapping[str, Sequence[Any]]) -> str:
    """How numbers are changed back, of which a job may say nothing: their defaults can have been others."""
    numbers = [f"{name}={old}" for name, (old, _) in found.items() if isinstance(old, int | float)]
    return f" ({', '.join(numbers)})" if numbers else ""


def _difference(before: Any, now: Any) -> list[Any]:
    """Two values without what they have in common, where they are mappings or lists of them."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return [{name: before.get(name) for name in names}, {name: now.get(name) for name in names}]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [_difference(old, new) for old, new in zip(before, now, strict=True) if old != new]
        return [[old for old, _ in pairs], [new for _, new in pairs]]
    return [before, now]
