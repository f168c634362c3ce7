"""How a run is brought to its end: its last state saved, and said in run.json."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from unisono.checkpoint import store
from unisono.checkpoint.keeper import Keeper
from unisono.checkpoint.parameters import link, save, sha256_of
from unisono.errors import JobError
from unisono.observe.outlet import begun, waited_for
from unisono.observe.run_folder import PARAMETERS, Fenced, RunFolder
from unisono.observe.stream import Stream
from unisono.runs.recorder import Recorder
from unisono.runs.resuming import standing_after
from unisono.runtime.processes.leftovers import remove_unfinished
from unisono.runtime.rules.shutdown import ASKED, Shutdown
from unisono.runtime.supervisor.outcome import Outcome

LAST_SECONDS = 1.0
"""For what is done when a second signal has come."""


def ended_at_once(folder: RunFolder, keeper: Keeper, number: int) -> None:
    """A second signal ends the run: say where its state is, and leave nothing behind that is not finished. A terminal
    and a disk that hang are not waited for long."""
    folder.interrupted(number)
    said = f"unisono: ended at once, without saving the state; {keeper.whereabouts}\n"
    threads = [
        threading.Thread(target=Stream(sys.stderr, lambda text: None).write, args=(said,), daemon=True),
        threading.Thread(target=lambda: remove_unfinished(folder.path), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LAST_SECONDS)


def conclude(watcher: Recorder, outcome: Outcome) -> None:
    """Save the state in which the run ended and say how it ended; another host does where this one has left.

    A disk that hangs is waited for, with a word every ten seconds, until a second interrupt.

    Raises:
        JobError: it failed, or the state could not be saved.
    """

    def waits(seconds: float) -> None:
        watcher.message(
            f"the disk has not taken the state after step {outcome.steps_done} for {seconds:.0f} s "
            f"({watcher.keeper.whereabouts}); waiting for it, and two interrupts end without it"
        )

    if outcome.left:
        watcher.settle()
        return
    waited_for(begun("the final state", partial(_conclude, watcher, outcome)), waits)


def _conclude(watcher: Recorder, outcome: Outcome) -> None:
    folder, keeper = watcher.folder, watcher.keeper
    try:
        folder.fence()
    except Fenced as fenced:
        if fenced.certain:
            raise JobError(outcome.failure.message if outcome.failure else str(fenced)) from fenced
    if watcher.had_finished and outcome.consistent and outcome.failure is None:
        folder.put_back(watcher.earlier)
        return
    seconds = round(time.monotonic() - watcher.started, 3)
    values: dict[str, Any] = {"steps_done": outcome.steps_done, "seconds": seconds}
    watcher.settle()
    if watcher.skipped:
        values["skipped_steps"] = watcher.skipped
    lost = _save(watcher, outcome, values) if outcome.consistent else None
    if outcome.failure is not None:
        keeper.settle()
        if outcome.failure.spoiled:  # it may have been copied after something had changed it
            store.remove(folder.checkpoints, outcome.steps_done)
        if not outcome.consistent:
            sound = _what_is_sound(folder, watcher.message)
            kept = f"nothing of this step is kept, which had begun to change the parameters; {sound}"
        else:
            kept = f"a checkpoint after step {outcome.steps_done} is kept" if lost is None else lost
        folder.update(**values, exit="failed", error=outcome.failure.message)
        raise JobError(f"{outcome.failure.message}\nRun folder: {folder.path} ({kept}).", outcome.failure.traceback)
    if lost is not None:
        error = f"training ended well, but its final state could not be saved: {lost}"
        folder.update(**values, exit="failed", error=error)
        raise JobError(f"{error}\nRun folder: {folder.path}.")
    if outcome.complete or keeper.exhausted:
        folder.update(**values, exit="completed", reason="steps" if outcome.complete else "patience")
    else:
        folder.update(**values, **interrupted(outcome.shutdown))


def _save(watcher: Recorder, outcome: Outcome, values: dict[str, Any]) -> str | None:
    """Save the final state, and put its hash among the values; returns what is lost and what is kept, if not all is."""
    folder, keeper = watcher.folder, watcher.keeper
    standing = standing_after(outcome.described, outcome.state, outcome.rounds)
    parameters = outcome.state.saved(standing.step)
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(sha256_of, parameters)  # while the disk is at work
        saved = keeper.last(standing, parameters, outcome.state.optimizer(standing.step))
        values["parameters_sha256"] = digest.result()
    try:
        if saved:
            folder.fence()
            link(folder.parameters, store.at(folder.checkpoints, standing.step) / store.PARAMETERS)
            return None
        save(folder.claim() / PARAMETERS, parameters)
        kept = f"{PARAMETERS} has the final parameters"
    except Fenced as fenced:
        if saved:
            return None  # the checkpoint has them
        kept = str(fenced)
    except OSError as error:
        kept = f"{PARAMETERS} could not be written: {error}"
    parts = [*([] if saved else [str(keeper.failure)]), kept, _what_is_sound(folder, watcher.message)]
    return "; ".join(parts)


def interrupted(shutdown: Shutdown | None) -> dict[str, Any]:
    """What run.json says of a run that was asked to stop."""
    shutdown = shutdown or Shutdown(False, ASKED)
    return {"exit": "interrupted", "reason": shutdown.reason, "signal": shutdown.signal}


def _what_is_sound(folder: RunFolder, message: Callable[[str], None]) -> str:
    """Which checkpoint is left."""
    checkpoint, damage = store.newest_sound(folder.checkpoints)
    for text in damage:
        message(f"damaged checkpoint: {text}")
    if checkpoint is None:
        return "there is no checkpoint: write some with --checkpoint-every"
    return f"the newest sound checkpoint is that after step {checkpoint.standing.step}"
