"""The parameters that a run has saved: believed once their hash is the one that the run has kept."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from unisono.checkpoint import store
from unisono.checkpoint.files import sha256_of_file
from unisono.checkpoint.store import Damaged
from unisono.errors import UsageError
from unisono.observe.run_folder import CHECKPOINTS, PARAMETERS, RUN, read_run, status_of
from unisono.values.untrusted import Malformed


def parameters_file(directory: Path, which: str | int) -> Path:
    """Where a run's parameters lie; they are those that it has saved, whose hash it has kept.

    Args:
        directory: the run folder.
        which: "final", "best" or a step.

    Raises:
        UsageError: another name, no such parameters, or they have changed.
    """
    manifest = read_run(directory)
    try:
        if which == "final":
            return _final(directory, manifest)
        return store.sound_parameters(store.at(directory / CHECKPOINTS, _step(directory, manifest, which)))
    except Malformed as error:
        raise UsageError(f"parameters must be those that were saved; {error}. {_another(directory)}") from error


def _step(directory: Path, manifest: Mapping[str, Any], which: str | int) -> int:
    """The step that is meant, which has a checkpoint."""
    if which == "best":
        if manifest.get("best") is None:
            raise UsageError(f"a run has a best model if its job names one (best=); {directory} has none.")
        which = manifest["best"]["step"]
    elif not re.fullmatch(r"\d{1,18}", str(which), re.ASCII):
        raise UsageError(f"a run's parameters are named 'final', 'best' or by a step; received {which!r}.")
    kept = store.steps(directory / CHECKPOINTS)
    if int(which) not in kept:
        raise UsageError(f"a step needs a checkpoint; received {which}, there are {kept}.")
    return int(which)


def _final(directory: Path, manifest: Mapping[str, Any]) -> Path:
    """The file of the parameters with which a run has ended.

    Raises:
        UsageError: it has not.
        Malformed: the file holds others.
    """
    path, told, ended = directory / PARAMETERS, manifest.get("parameters_sha256"), manifest.get("steps_done")
    if told is None or not os.path.lexists(path):
        lacks = "has none"
    elif ended is not None and _newest(directory, ended) is not None:
        lacks = f"has gone on after step {ended}, where it had"
    elif (found := sha256_of_file(path)) != told:
        raise Malformed(f"{path} has the SHA-256 {found}, and {RUN} names {told}")
    else:
        return path
    raise UsageError(
        f"a run has final parameters once it has ended; {directory} ({status_of(manifest)}) {lacks}. "
        f"{_another(directory)}"
    )


def _newest(directory: Path, after: int = -1) -> int | None:
    """The newest step after this one whose parameters are sound."""
    for step in reversed(store.steps(directory / CHECKPOINTS)):
        if step <= after:
            break
        with suppress(Damaged):
            store.sound_parameters(store.at(directory / CHECKPOINTS, step))
            return step
    return None


def _another(directory: Path) -> str:
    """What else can be taken of a run."""
    step = _newest(directory)
    return "Name another run, or train again." if step is None else f"Name a checkpoint: --at {step} is sound."
