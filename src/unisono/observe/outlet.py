"""What may block or fail (a disk, a terminal, a person's function) done by a thread of its own, in order.

The thread that supervises a run recovers it too, so it hands such things over and never waits for them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")

MOST_THINGS, MOST_BYTES = 10_000, 1 << 24
"""What may wait."""

PATIENCE_SECONDS = 10.0
"""With what is left when a run has ended."""

SLOW_SECONDS = 10.0
"""One thing may take so long before a person is told."""

LOOK_SECONDS = 0.05

_THREADS = "unisono: "
"""What the names of their threads begin with."""


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class Outlet:
    """A bounded queue of calls and the thread that makes them. It starts with the first one.

    Args:
        name: what it is, as it reads in "NAME: 3 things were dropped".
        say: tells a person; called by the thread, and by `put` and `close`: it must not block.
        describe: the text of what a call has raised.

    >>> done = []
    >>> outlet = Outlet("the list", print)
    >>> outlet.put(done.append, 1)
    >>> outlet.settle(60.0), done
    (True, [1])
    """

    def __init__(
        self, name: str, say: Callable[[str], None], describe: Callable[[BaseException], str] = _named
    ) -> None:
        self._name, self._say, self._describe = name, say, describe
        self._waiting: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._bytes = self._put = self._done = self._dropped = self._failed = 0
        self._changed = threading.Condition()  # re-entrant: a signal's handler may put too
        self._thread: threading.Thread | None = None
        self._began: float | None = None
        self._is_slow = self._is_closed = False

    def put(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have a function called. Never blocks and never raises: what there is no room for is dropped and counted."""
        size = _size(arguments)
        with self._changed:
            full = len(self._waiting) >= MOST_THINGS or self._bytes + size > MOST_BYTES
            if self._is_closed or full or not self._is_running():
                self._dropped += 1
                return
            self._waiting.append((function, arguments))
            self._bytes += size
            self._put += 1
            self._changed.notify_all()
            told = self._is_slow or self._began is None or time.monotonic() - self._began < SLOW_SECONDS
            self._is_slow = self._is_slow or not told
        if not told:
            self._say(f"{self._name}: no answer for {SLOW_SECONDS:.0f} s; training goes on, what comes waits")

    def settle(self, patience_seconds: float) -> bool:
        """Wait until all that was put so far is done; returns whether it is.

        Args:
            patience_seconds: from when what is at work now began: who is stuck is waited for once.
        """
        with self._changed:
            until = self._put
            spent = 0.0 if self._began is None else time.monotonic() - self._began
            return self._changed.wait_for(lambda: self._done >= until, max(0.0, patience_seconds - spent))

    def close(self, patience_seconds: float) -> bool:
        """Settle and end the thread; what could not be done is said. Returns whether it has settled."""
        settled = self.settle(patience_seconds)
        with self._changed:
            first, self._is_closed = not self._is_closed, True
            left = self._put - self._done
            self._changed.notify_all()
        if settled and self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if first and (left or self._dropped):
            which = f" (no answer in {patience_seconds:.0f} s)" if left else ""
            number = left + self._dropped
            self._say(f"{self._name}: {number} thing{'' if number == 1 else 's'} dropped{which}")
        if first and self._failed > 1:
            self._say(f"{self._name}: failed {self._failed} times in all")
        return settled

    def _is_running(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=_THREADS + self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads for this user
                return False
            self._thread = thread
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                function, arguments = self._waiting.popleft()
                self._bytes -= _size(arguments)
                self._began = time.monotonic()
            try:
                function(*arguments)
            except BaseException as error:  # a person's function may raise SystemExit
                self._fail(error)
            del function, arguments
            with self._changed:
                self._began = None
                self._done += 1
                self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        self._failed += 1
        if self._failed == 1:
            self._say(f"{self._name}: {self._describe(error)}; training goes on")


class Inline(Outlet):
    """The same at once and in this thread, for `--debug`: a breakpoint works, and prints keep their order."""

    def put(self, function: Callable[..., Any], *arguments: Any) -> None:
        """See `Outlet`; it may block."""
        try:
            function(*arguments)
        except Exception as error:
            self._fail(error)

    def settle(self, patience_seconds: float) -> bool:
        """See `Outlet`."""
        return True


def begun(name: str, call: Callable[[], T]) -> Future[T]:
    """What a call will give; a thread of its own makes it.

    Args:
        name: what it is.
        call: it may take as long as a disk does.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # whoever asks for the result gets it
            future.set_exception(error)

    try:
        threading.Thread(target=work, name=_THREADS + name, daemon=True).start()
    except RuntimeError:  # no more threads for this user
        work()
    return future


@contextmanager
def told_of_waiting(say: Callable[[float], None]) -> Iterator[None]:
    """While a block takes long, say so every ten seconds.

    Args:
        say: hears for how many seconds it has gone on; called by another thread.
    """
    over, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(SLOW_SECONDS):
            say(time.monotonic() - began)

    teller = threading.Thread(target=tell, name=_THREADS + "waiting", daemon=True)
    with suppress(RuntimeError):  # no more threads for this user
        teller.start()
    try:
        yield
    finally:
        over.set()
        if teller.ident is not None:
            teller.join()


def waited_for(future: Future[T], say: Callable[[float], None]) -> T:
    """What a call has given that has `begun`.

    Signals are heard meanwhile: this thread looks up now and then, for the kernel may give one to another thread.

    Args:
        future: it.
        say: hears every ten seconds for how many it has been waited for.
    """
    began = said = time.monotonic()
    while not wait([future], LOOK_SECONDS).done:
        now = time.monotonic()
        if now - said >= SLOW_SECONDS:
            say(now - began)
            said = now
    return future.result()


def is_stuck() -> bool:
    """Whether an outlet of this process has been left with something that does not end."""
    return any(thread.name.startswith(_THREADS) for thread in threading.enumerate())


def _size(arguments: tuple[Any, ...]) -> int:
    return sum(len(each) for each in arguments if isinstance(each, str | bytes))
