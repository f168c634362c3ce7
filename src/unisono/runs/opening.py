"""How a start finds its run folder: it begins a run there, goes on with one, or leaves alone what it finds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from itertools import count
from pathlib import Path

from unisono.checkpoint import store
from unisono.checkpoint.store import Checkpoint
from unisono.errors import JobError, UsageError
from unisono.frameworks.registry import families
from unisono.observe.metrics import METRICS, locked
from unisono.observe.run_folder import CHECKPOINTS, HOSTS, LOGS, PARAMETERS, RUN, RunFolder, read_run, this_process
from unisono.observe.timeline import TIMELINE
from unisono.runtime.processes.leftovers import sweep_run
from unisono.settings import AUTO, Settings
from unisono.values.text import excerpt

ABANDONED = "abandoned-"
"""How names of folders begin that hold what abandoned runs have recorded."""

_PATTERNS = (METRICS, f"{METRICS}.*", "events.out.tfevents.*", TIMELINE, LOGS, HOSTS, PARAMETERS)
"""What a run leaves besides checkpoints, models in frameworks' own files and, as the last, run.json: as long as that
is there, the folder holds a run."""

_EMPTY = (f"{RUN}.tmp", LOGS, HOSTS, f"{ABANDONED}*", ".*", "lost+found")
"""What an empty folder may hold: what a run makes before it has its run.json, and what systems keep in folders."""


class Start(Enum):
    """What a start does with its run folder."""

    NEW = "begin a run; a folder that holds one is refused"
    RESUME = "go on with the run that the folder holds"
    AUTO = "go on with the run that the folder holds, or begin one"


def folder_of(settings: Settings, starts_again: bool) -> tuple[Path, Start]:
    """The run folder, and what a start does with it; one that is not named is made `fresh` by who makes it.

    Args:
        settings: of the run.
        starts_again: whether a launcher may start this again with the same settings.

    Raises:
        UsageError: two are named, or none where one must be.
    """
    out, resume = settings.out, settings.resume
    if resume == AUTO:
        if out is None:
            raise UsageError(
                f"resume={AUTO} goes on with the run in the folder that out names, or begins one there; received no "
                f"out. Give --out (a folder of the name {AUTO} is ./{AUTO})."
            )
        return Path(out), Start.AUTO
    if out is not None and resume is not None:
        raise UsageError(f"a resumed run goes on in its own folder; received out={out} and resume={resume}.")
    if resume is not None:
        return Path(resume), Start.RESUME
    if out is None:
        return Path("runs") / f"{settings.name}-{datetime.now():%Y%m%d-%H%M%S}", Start.NEW
    return Path(out), Start.AUTO if starts_again else Start.NEW


def opened(path: Path, start: Start, message: Callable[[str], None]) -> tuple[RunFolder, bool]:
    """The run folder, and whether the run in it goes on; if not, it begins.

    Args:
        path: the folder.
        start: what is to be done with it.
        message: says what a person should know.

    Raises:
        UsageError: what the folder holds does not go with that.
    """
    if start is Start.RESUME or (start is Start.AUTO and _goes_on(path, message)):
        return RunFolder.reopen(path), True
    folder = RunFolder.create(path)
    folder.update(exit="running", started=datetime.now(UTC).isoformat(timespec="milliseconds"), **this_process())
    return folder, False


def _goes_on(path: Path, message: Callable[[str], None]) -> bool:
    """Whether a folder holds a run to go on with. What one has recorded that ended before its first checkpoint makes
    room for one that begins anew."""
    if not os.path.lexists(path / RUN):
        if others := sorted(_others(path)):
            raise UsageError(
                f"resume={AUTO} goes on with the run in its out folder, or begins one in an empty folder; {path} holds "
                f"no {RUN}, and something else: {excerpt(others)}. Name another folder with --out."
            )
        return False
    manifest = read_run(path)
    sweep_run(path)
    if store.steps(path / CHECKPOINTS):
        return True
    if manifest.get("exit") == "completed":
        raise UsageError(
            f"a run goes on from a checkpoint; {path} holds a finished one whose checkpoints are gone (parameters "
            f"{manifest.get('parameters_sha256')}). Begin another one with another --out."
        )
    aside = _put_aside(path)
    message(f"{path} holds a run that ended before its first checkpoint: it begins anew; its records are in {aside}")
    return False


def _others(path: Path) -> Iterator[str]:
    """What a folder holds that an empty one may not."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            yield from (entry.name for entry in path.iterdir() if not any(map(entry.match, _EMPTY)))
    except OSError as error:
        raise UsageError(f"the out folder must be readable; received {path}: {error}. Name another.") from error


def _put_aside(path: Path) -> Path:
    """Move what an earlier run has recorded into a folder of its own within its folder; what is not a run's stays.

    Raises:
        UsageError: a process writes there, or the folder is not writable.
    """
    lock = locked(path / METRICS) if os.path.lexists(path / METRICS) else None
    try:
        numbered = (path / f"{ABANDONED}{number}" for number in count(1))
        aside = next(each for each in numbered if not os.path.lexists(each))
        aside.mkdir()
        models = [family.model_file for family in families() if family.model_file]
        for pattern in (*_PATTERNS, *models, RUN):
            for each in [*path.glob(pattern)]:
                each.rename(aside / each.name)
    except OSError as error:
        raise UsageError(
            f"the out folder must be writable; received {path}: {error}. Name another with --out."
        ) from error
    finally:
        if lock is not None:
            os.close(lock)
    return aside


def host_folder(path: Path, host: str, begun: str) -> RunFolder:
    """The folder of one of several hosts, within the run's or, by the same name, on a disk of its own.

    Args:
        path: the run folder.
        host: the host.
        begun: when the run was begun. What another run has left there is put aside.

    Raises:
        UsageError: it cannot be made.
    """
    folder = RunFolder(path / HOSTS / host)
    with suppress(UsageError):
        folder.fields = read_run(folder.path)
    if os.path.lexists(folder.path / RUN) and folder.begun != begun:
        _put_aside(folder.path)
        folder.fields = {}
    try:
        (folder.path / LOGS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"every host keeps its logs under --out; {folder.path} cannot be made: {error}.") from error
    folder.update(started=begun)
    return folder


def newest(folder: RunFolder, message: Callable[[str], None]) -> Checkpoint:
    """The newest sound checkpoint of a run folder; damaged ones are named.

    Raises:
        JobError: there is none.
    """
    sweep_run(folder.path)
    checkpoint, damage = store.newest_sound(folder.checkpoints)
    for text in damage:
        message(f"damaged checkpoint: {text}")
    if checkpoint is None:
        raise JobError(
            f"a run is resumed from a sound checkpoint; {folder.path} has none"
            f"{' (the damaged ones are named above)' if damage else ''}. Nothing was changed. Start again with "
            "another --out, and write checkpoints with --checkpoint-every."
        )
    if damage:
        message(f"going on from {checkpoint.path.name}, the newest sound one")
    return checkpoint
