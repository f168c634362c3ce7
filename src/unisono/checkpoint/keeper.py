"""When checkpoints are written: every so often, for the best evaluation, at the end; while training goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unisono.checkpoint import store
from unisono.checkpoint.copies import Copies
from unisono.checkpoint.parameters import Tensors
from unisono.checkpoint.store import Standing
from unisono.settings import Checkpointing
from unisono.values.untrusted import Maybe, check

_MEMORY = {"best": Maybe({"name": str, "value": float, "step": int}), "since_best": int}


def _is_better(better: str, value: float, best: float | None) -> bool:
    """Whether a value beats the best so far; NaN beats nothing.

    >>> _is_better("max", math.nan, None), _is_better("min", 2.0, None), _is_better("min", 1.0, 2.0)
    (False, True, True)
    """
    if math.isnan(value) or best is None:
        return not math.isnan(value)
    return value > best if better == "max" else value < best


@dataclass
class Keeper:
    """Keeps the checkpoints of one run.

    Args:
        folder: gives the folder of checkpoints, where it lies now.
        settings: when and how many.
        best: ("max" | "min", name of an evaluation value), or None.
        patience: evaluations without a better one after which the run ends, or None.
        message: says what a person should know.
        kept: called with the best evaluation so far when its checkpoint is on disk.
        before: called before one is written, by whoever writes it: has on disk what a resumed run finds beside it.
        fence: called before old ones are removed; raises OSError where another host keeps the folder.

    Attributes:
        about: the job's digest and the numerics' fingerprint, kept in each checkpoint.
        failure: why the last one could not be written, or None.
        newest: the step of the newest one that is on disk, as far as this process knows, or None.
    """

    folder: Callable[[], Path]
    settings: Checkpointing
    best: tuple[str, str] | None
    patience: int | None
    message: Callable[[str], None]
    kept: Callable[[Mapping[str, Any]], None]
    before: Callable[[], None] = lambda: None
    fence: Callable[[], None] = lambda: None
    about: tuple[Mapping[str, Any], Mapping[str, str]] = ({}, {})
    failure: str | None = None
    newest: int | None = None

    def __post_init__(self) -> None:
        self._standing = Standing(0, False, 1)
        self._improved = self._told_slow = False
        self._copies = Copies(self._write)
        self._written_at = time.monotonic()

    def begin(self, standing: Standing) -> None:
        """Go on from where an earlier run stood."""
        self._standing = standing

    def prepare(self, parameters: Tensors, optimizer: Tensors) -> None:
        """Take the memory of a copy now, so that no step waits for it later."""
        if self.settings.steps or self.settings.seconds or self.best:
            self._copies.prepare(parameters, optimizer)

    def memory(self) -> dict[str, Any]:
        """What evaluations so far have shown, as JSON can hold it."""
        return {"best": self._standing.best, "since_best": self._standing.since_best}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Go on from another keeper's `memory`.

        Raises:
            Malformed: it is none; it may come from another host.
        """
        told = check(dict(memory), _MEMORY, "what a host remembers")
        self._standing = replace(self._standing, best=told["best"], since_best=max(0, told["since_best"]))

    @property
    def whereabouts(self) -> str:
        """Where the state is that a run can go on from; the disk is not asked."""
        return (
            "no checkpoint is on disk"
            if self.newest is None
            else f"the newest checkpoint is that of step {self.newest}"
        )

    @property
    def exhausted(self) -> bool:
        """Whether patience is over."""
        return self.patience is not None and self._standing.since_best >= self.patience

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Take note of an evaluation."""
        if self.best is None:
            return
        better, name = self.best
        value = record.get(f"evaluation/{name}")
        if value is None:
            return  # another set's
        best = self._standing.best
        if _is_better(better, value, None if best is None else best["value"]):
            found = {"name": name, "value": value, "step": record["step"]}
            self._standing = replace(self._standing, best=found, since_best=0)
            self._improved = True
        else:
            self._standing = replace(self._standing, since_best=self._standing.since_best + 1)

    @property
    def has_written(self) -> bool:
        """Whether the run has checkpoints, from whichever process."""
        return bool(store.steps(self.folder()))

    def due_by_clock(self) -> bool:
        """Whether the settings ask for a checkpoint now; while one is being written they do not ask for another."""
        every = self.settings.seconds
        if every is None or time.monotonic() - self._written_at < every:
            return False
        if self._copies.is_writing and not self._told_slow:
            self._told_slow = True
            self.message(f"the disk takes more than {every:g} s for a checkpoint: the next comes when it has one")
        return not self._copies.is_writing

    def copy(self, standing: Standing, parameters: Tensors, optimizer: Tensors) -> None:
        """The state stands still: copy it if a checkpoint is due, and write the copy meanwhile.

        While a slow disk still takes another one, only the best waits for it.
        """
        every = self.settings.steps
        due = every is not None and standing.step % every == 0 and not standing.evaluated
        if not (due or self.due_by_clock() or self._improved):
            return
        if self._copies.is_writing and not self._improved:
            self.message(f"the disk is slow: no checkpoint of step {standing.step}, the last one is being written")
            return
        self._written_at = time.monotonic()
        standing, improved, self._improved = self._with_memory(standing), self._improved, False
        try:
            self._copies.add(parameters, optimizer, (standing, improved))
        except RuntimeError as error:  # no more threads for this user
            self._failed(standing, error)

    def pass_over(self) -> None:
        """The state stands still, and another host copies it."""
        self._improved = False

    def last(self, standing: Standing, parameters: Tensors, optimizer: Tensors) -> bool:
        """Write the state in which a run ended; returns whether the disk took it."""
        self.settle()
        self._copies.forget()
        self.failure = None
        self._write(parameters, optimizer, (self._with_memory(standing), self._improved))
        return self.failure is None

    def settle(self, patience_seconds: float | None = None) -> None:
        """Wait until all copies are on disk; None = however long that takes."""
        self._copies.settle(patience_seconds)

    def _with_memory(self, standing: Standing) -> Standing:
        return replace(standing, best=self._standing.best, since_best=self._standing.since_best)

    def _write(self, parameters: Tensors, optimizer: Tensors, about: tuple[Standing, bool]) -> None:
        standing, improved = about
        try:
            self.before()
            job, fingerprint = self.about
            folder = self.folder()
            store.write(folder, standing, job, fingerprint, parameters, optimizer)
            self.newest = standing.step
            best = standing.best
            if improved and best is not None:
                self.kept(best)
        except (OSError, RuntimeError) as error:  # a full disk; no more threads
            self._failed(standing, error)
            return
        with suppress(OSError):
            self.fence()
            store.prune(folder, self.settings.keep, {best["step"]} if best else set())

    def _failed(self, standing: Standing, error: Exception) -> None:
        self.failure = f"the checkpoint of step {standing.step} could not be written: {error}"
        self.message(f"{self.failure}; training goes on, the next one is tried again")
