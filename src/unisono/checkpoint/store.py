"""Checkpoints on disk: written to one side, synced, renamed; checked before they are believed.

checkpoints/step-00000200/parameters.safetensors    the framework's own names
                          optimizer.safetensors     PARAMETER/KEY: moments; PARAMETER/scalars: present, step …;
                                                    optimizer.NUMBER: a state that is a tree, as JSON
                          state.json                where the run stood, and the SHA-256 of the files
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unisono.checkpoint.files import load
from unisono.checkpoint.parameters import Tensors, sync
from unisono.checkpoint.parameters import write as write_tensors
from unisono.values.untrusted import Malformed, Maybe, check, document, opened

PARAMETERS, OPTIMIZER, STATE = "parameters.safetensors", "optimizer.safetensors", "state.json"
_PREFIX = "step-"
_NAME = re.compile(rf"{_PREFIX}(\d+)", re.ASCII)
_FILE = {"bytes": int, "sha256": str}
_STATE = {
    "step": int, "evaluated": bool, "epoch": int, "losses": list, "watched": list, "since_best": int,
    "best": Maybe({"name": str, "value": object, "step": int}), "job": dict, "fingerprint": {str: str},
    "files": {PARAMETERS: _FILE, OPTIMIZER: _FILE}, "sha256": str,
}  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """Where a run stood.

    Attributes:
        step: steps done.
        evaluated: whether the evaluation due at this step is done.
        epoch: the epoch of the next step, counted from 1.
        losses: the evaluations' losses so far (schedules may follow them).
        best: value and step of the best evaluation so far, or None.
        since_best: evaluations since then.
        watched: of each evaluation the value that `job.best` names (schedules may follow it too).
    """

    step: int
    evaluated: bool
    epoch: int
    losses: tuple[float, ...] = ()
    best: Mapping[str, Any] | None = None
    since_best: int = 0
    watched: tuple[float, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A sound checkpoint that was read.

    Attributes:
        path: its folder.
        standing: where the run stood.
        job: the job's digest.
        fingerprint: the numerics it was made with.
        parameters, optimizer: the values.
    """

    path: Path
    standing: Standing
    job: Mapping[str, Any]
    fingerprint: Mapping[str, str]
    parameters: Tensors = field(repr=False)
    optimizer: Tensors = field(repr=False)

    def forget(self) -> None:
        """Let the values go, once they are in place: whoever resumes a run holds this until it ends."""
        for tensors in (self.parameters, self.optimizer):
            tensors.arrays.clear()
            tensors.dtypes.clear()


class Damaged(Malformed):
    """A checkpoint is not sound; the text names the file and what is wrong with it."""


def write(
    folder: Path, standing: Standing, job: Mapping[str, Any], fingerprint: Mapping[str, str],
    parameters: Tensors, optimizer: Tensors,
) -> Path:  # fmt: skip
    """Write a checkpoint into the folder of checkpoints, all or nothing.

    Raises:
        OSError: the disk does not take it; what was there before is untouched.
    """
    path = folder / f"{_PREFIX}{standing.step:08d}"
    aside = folder / f".{path.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        tensors = {PARAMETERS: parameters, OPTIMIZER: optimizer}
        with ThreadPoolExecutor(len(tensors)) as pool:
            written = pool.map(lambda name: asdict(write_tensors(aside / name, tensors[name])), tensors)
            files = dict(zip(tensors, written, strict=True))
        state = {**_exact(asdict(standing)), "job": job, "fingerprint": fingerprint, "files": files}
        text = json.dumps({**state, "sha256": _digest(state)}, indent=2)
        (aside / STATE).write_text(text + "\n")
        sync(aside / STATE)
        sync(aside)
        old = folder / f".{path.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        aside.rename(path)
        sync(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return path


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _exact(value: Any) -> Any:
    """As JSON can hold it: "nan" and "inf" as texts, which `float` reads."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {name: _exact(item) for name, item in value.items()}
    return [_exact(item) for item in value] if isinstance(value, list | tuple) else value


def _number(value: Any) -> float:
    """What `_exact` wrote."""
    return float(value) if value in ("nan", "inf", "-inf") else float(check(value, float))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint and check all of it.

    Raises:
        Damaged: a file is missing, truncated, changed, or not one of Unisono's.
    """
    try:
        state = _state(path)
        for name in (PARAMETERS, OPTIMIZER):
            _compare(path / name, state["files"][name])
        best = state["best"]
        standing = Standing(
            state["step"], state["evaluated"], state["epoch"], tuple(map(_number, state["losses"])),
            None if best is None else {**best, "value": _number(best["value"])}, state["since_best"],
            tuple(map(_number, state["watched"])),
        )  # fmt: skip
        parameters, optimizer = load(path / PARAMETERS), load(path / OPTIMIZER)
        return Checkpoint(path, standing, state["job"], state["fingerprint"], parameters, optimizer)
    except Malformed as error:
        raise Damaged(str(error)) from error


def sound_parameters(path: Path) -> Path:
    """The file of a checkpoint's parameters, which are the ones that were saved.

    Raises:
        Damaged: they are not.
    """
    try:
        _compare(path / PARAMETERS, _state(path)["files"][PARAMETERS])
    except Malformed as error:
        raise Damaged(str(error)) from error
    return path / PARAMETERS


def _state(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    state = document(path / STATE, _STATE)
    told = state.pop("sha256")
    if _digest(state) != told:
        raise Damaged(f"{path / STATE}: its SHA-256 does not agree with what it says")
    if at(path.parent, state["step"]).name != path.name:
        raise Damaged(f"{path / STATE}: it is that of step {state['step']}")
    return state


def _compare(path: Path, expected: Mapping[str, Any]) -> None:
    """Hold a file to its size and SHA-256; one of another size is not read."""
    with opened(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            agrees = size == expected["bytes"]
            agrees = agrees and hashlib.file_digest(file, "sha256").hexdigest() == expected["sha256"]  # type: ignore[arg-type]
        except OSError as error:
            raise Damaged(f"{path}: cannot be read ({error.strerror})") from error
    if not agrees:
        raise Damaged(f"{path}: its size or SHA-256 is not the one that {STATE} names")


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, oldest first; sound or not."""
    named = (_NAME.fullmatch(path.name) for path in folder.glob(f"{_PREFIX}*"))
    return sorted({int(found[1]) for found in named if found and at(folder, int(found[1])).name == found[0]})


def at(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"{_PREFIX}{step:08d}"


def newest_sound(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is sound, and what is wrong with the newer ones."""
    damage: list[str] = []
    for step in reversed(steps(folder)):
        try:
            return read(at(folder, step)), damage
        except Damaged as error:
            damage.append(str(error))
    return None, damage


def remove(folder: Path, step: int) -> None:
    """Remove the checkpoint of a step, if there is one."""
    shutil.rmtree(at(folder, step), ignore_errors=True)


def sweep(folder: Path) -> None:
    """Bring a folder of checkpoints in order that nobody writes any more.

    What a process was still writing goes; a checkpoint that it had put aside, for another one of the same step, comes
    back if the other one is not there.

    Args:
        folder: the folder of checkpoints.
    """
    for old in folder.glob(f".{_PREFIX}*.old"):
        path = old.with_name(old.name[1 : -len(".old")])
        with suppress(OSError):
            if not path.exists():
                old.rename(path)
    for left in (*folder.glob(f".{_PREFIX}*.tmp"), *folder.glob(f".{_PREFIX}*.old")):
        shutil.rmtree(left, ignore_errors=True)


def prune(folder: Path, keep: int, spared: Collection[int]) -> None:
    """Remove all but the newest `keep` checkpoints and the spared ones."""
    removable = [step for step in steps(folder) if step not in spared]
    for step in removable[:-keep]:
        remove(folder, step)
