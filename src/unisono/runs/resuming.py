"""Where a run stands, and what is another one than it was when it goes on from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from unisono.checkpoint.store import Checkpoint, Standing
from unisono.runtime.preparation.code_files import changed_files
from unisono.runtime.preparation.digest import changes
from unisono.runtime.preparation.outline import JobFacts
from unisono.runtime.preparation.prepared import Described
from unisono.runtime.state.model_state import ModelState


def standing_after(described: Described, state: ModelState, rounds: int) -> Standing:
    """Where a run stands after so many rounds."""
    step, evaluated = described.program.position(rounds)
    epoch, _ = described.program.batches.locate(step)
    over = described.program.evaluations_by(step - 1) + int(evaluated)
    losses, watched = (tuple(state.segment[name][:over].tolist()) for name in ("losses", "watched"))
    return Standing(step, evaluated, epoch + 1, losses, watched=watched)


def is_before(record: Mapping[str, Any], standing: Standing) -> bool:
    """Whether a record was written before the checkpoint."""
    return place_of(record) <= (standing.step, standing.evaluated)


def place_of(record: Mapping[str, Any]) -> tuple[int, bool]:
    """Where a record stands among others: a step's evaluation follows it."""
    return int(record["step"]), "loss" not in record


def resumed_as(
    checkpoint: Checkpoint, job: JobFacts, digest: Mapping[str, Any], fingerprint: Mapping[str, str],
    allow_change: bool, message: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """What run.json keeps of a start that goes on from a checkpoint.

    Args:
        checkpoint: where it goes on from.
        job: what is trained now.
        digest, fingerprint: of that job, and of the numerics here.
        allow_change: whether a change of the result is accepted.
        message: says what is another one.

    Raises:
        UsageError: a difference that is not accepted.
    """
    before = checkpoint.job
    entry: dict[str, Any] = {
        "step": checkpoint.standing.step, "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    if found := changes(before, digest, allow_change, str(checkpoint.path)):
        entry["changes"] = found
        message(f"resuming a changed job ({', '.join(found)}): the result is not that of the undisturbed run")
    code = before.get("code")
    if changed := changed_files(code if isinstance(code, dict) else {}, digest["code"]):
        entry["code"] = changed
        message(
            "resuming with other code than the checkpoint's: steps before and after follow different code "
            f"({_listed(changed)})"
        )
    there = checkpoint.fingerprint
    if numerics := {k: [v, fingerprint.get(k)] for k, v in there.items() if fingerprint.get(k) != v}:
        entry["numerics"] = numerics
        message(f"another numerics fingerprint than the checkpoint's: bits may differ from here ({_listed(numerics)})")
    if job.identity()["schedule"] is not None and before.get("steps") != digest.get("steps"):
        message(
            f"the run's length changed from {before.get('steps')} to {digest.get('steps')} steps: the learning-rate "
            "schedule depends on it, so steps before and after follow different ones"
        )
    return entry


def _listed(changed: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {old} → {new}" for name, (old, new) in changed.items())
