"""Copies of a state, which are written while training goes on: one is at work, and one may wait for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from unisono.checkpoint.parameters import Tensors


class Copies:
    """The memory of two copies, and the thread that writes them.

    Args:
        write: (parameters, optimizer, more) → nothing; called by the thread, and never raises.
    """

    def __init__(self, write: Callable[..., None]) -> None:
        self._write = write
        self.forget()
        self._lock = threading.Lock()
        self._at_work: int | None = None
        self._waiting: tuple[int, Any] | None = None
        self._thread: threading.Thread | None = None

    def prepare(self, parameters: Tensors, optimizer: Tensors) -> None:
        """Take the memory of one copy now."""
        self._room[0] = (parameters.room(), optimizer.room())

    @property
    def is_writing(self) -> bool:
        """Whether one is at work."""
        return self._at_work is not None

    def add(self, parameters: Tensors, optimizer: Tensors, more: Any) -> None:
        """Copy a state that stands still. It is written next; one that has waited until now is not written any more.

        Args:
            parameters, optimizer, more: what is written.

        Raises:
            RuntimeError: there can be no thread.
        """
        with self._lock:
            self._waiting = None
            place = 0 if self._at_work is None else 1 - self._at_work
        for values, room in zip((parameters, optimizer), self._room[place], strict=True):
            values.copy_into(room)
        with self._lock:
            self._waiting = place, more
            if self._at_work is not None:
                return
            self._at_work = place
        self._thread = threading.Thread(target=self._work, name="unisono-checkpoint", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = self._waiting = self._at_work = None
            raise

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._waiting is None:
                    self._at_work = None
                    return
                (self._at_work, more), self._waiting = self._waiting, None
            self._write(*self._room[self._at_work], more)

    def settle(self, patience_seconds: float | None = None) -> None:
        """Wait until all are written; None = however long that takes."""
        if self._thread is not None:
            self._thread.join(patience_seconds)

    def forget(self) -> None:
        """Give their memory back; nothing is written any more."""
        self._room = [(Tensors(), Tensors()), (Tensors(), Tensors())]
