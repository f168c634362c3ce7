"""The live progress line, or a plain line every ten seconds where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TextIO, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from unisono.observe.outlet import Inline, Outlet
from unisono.observe.stream import SHOW_SECONDS, Stream

PLAIN_SECONDS = 10.0

LAST_SECONDS = 1.0
"""Patience with standard error, where the terminal has had its own."""


class Display(Protocol):
    """Where progress is shown; by itself it shows nothing."""

    def start(self, steps: int, epochs: int | None, workers: int) -> None:
        """The run begins."""
        return

    def update(self, record: dict[str, Any]) -> None:
        """A record came."""
        return

    def workers(self, alive: int, hosts: int = 1) -> None:
        """So many workers are alive now, on so many hosts."""
        return

    def message(self, text: str) -> None:
        """Show a line of text."""

    def close(self) -> None:
        """The run ended."""
        return


def headline(record: dict[str, Any]) -> str:
    """The metrics of an evaluation record in one line.

    >>> headline({"step": 4, "evaluation/loss": 0.5, "evaluation/accuracy": 0.875})
    'step 4  evaluation/loss 0.5000  evaluation/accuracy 0.8750'
    """
    return "  ".join([f"step {record['step']}", *(f"{k} {v:.4f}" for k, v in record.items() if k != "step")])


def slow_text(record: dict[str, Any]) -> str:
    """Who is slow and by how much.

    >>> slow_text({"slow_workers": {"1": 2.4}})
    '  worker 1 is 2.4 × slower'
    """
    return "".join(f"  worker {slot} is {factor} × slower" for slot, factor in record.get("slow_workers", {}).items())


class Silent(Display):
    """Shows what processes print and nothing else.

    Args:
        out: where; None = standard output.
    """

    def __init__(self, out: Stream | None = None) -> None:
        self._out = out or Stream(sys.stdout, lambda text: None)

    def message(self, text: str) -> None:
        """See `Display`."""
        self._out.write(text + "\n")


class Plain(Silent):
    """One line every ten seconds, and one per evaluation."""

    def __init__(self, out: Stream | None = None) -> None:
        super().__init__(out)
        self._steps, self._workers, self._hosts, self._shown = 0, 0, 1, 0.0

    def start(self, steps: int, epochs: int | None, workers: int) -> None:
        """See `Display`."""
        self._steps, self._workers, self._shown = steps, workers, time.monotonic()

    def update(self, record: dict[str, Any]) -> None:
        """See `Display`."""
        if "loss" not in record:
            self.message(headline(record))
        elif time.monotonic() - self._shown >= PLAIN_SECONDS:
            self._shown = time.monotonic()
            self.message(
                f"step {record['step']}/{self._steps}  loss {record['loss']:.4f}  "
                f"{record['samples_per_second']:.0f} samples/s  {_counted(self._workers, self._hosts)}"
                f"{slow_text(record)}"
            )

    def workers(self, alive: int, hosts: int = 1) -> None:
        """See `Display`."""
        self._workers, self._hosts = alive, hosts


def _counted(workers: int, hosts: int = 1) -> str:
    return f"{workers} worker{'' if workers == 1 else 's'}{f' on {hosts} hosts' if hosts > 1 else ''}"


class Live(Plain):
    """A live line at the bottom of a terminal; everything else appears above it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._progress: Progress | None = None
        self._rate = 0.0

    def start(self, steps: int, epochs: int | None, workers: int) -> None:
        """See `Display`."""
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"), BarColumn(bar_width=20), TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True), TextColumn("left"), console=self._console, transient=True,
        )  # fmt: skip
        self._workers = workers
        self._epochs = f"/{epochs}" if epochs else ""
        self._task = self._progress.add_task(_counted(workers), total=steps)
        self._progress.start()

    def update(self, record: dict[str, Any]) -> None:
        """See `Display`."""
        if "loss" not in record or self._progress is None:
            super().update(record)
            return
        rate = record["samples_per_second"]
        self._rate = rate if not self._rate else 0.95 * self._rate + 0.05 * rate
        head = f"epoch {record['epoch']}{self._epochs}  loss {record['loss']:.4f}"
        text = f"{head}  {self._rate:.0f} samples/s  {_counted(self._workers, self._hosts)}{slow_text(record)}"
        self._progress.update(self._task, completed=record["step"], description=text)

    def message(self, text: str) -> None:
        """See `Display`."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def close(self) -> None:
        """See `Display`."""
        if self._progress is not None:
            self._progress.stop()


@dataclass
class Beside(Silent):
    """The display of a host beside the first one, which alone shows progress: what this one has to say, by its name.

    Args:
        display: where it is shown.
        name: this host.

    >>> beside = Beside(Plain(), "node1")
    >>> beside.message("a worker has died")
    [node1] a worker has died
    >>> beside.message("[node1 worker 0] hello")
    [node1 worker 0] hello
    """

    display: Display
    name: str

    def message(self, text: str) -> None:
        """See `Display`; what processes print has their host's name already."""
        self.display.message(text if text.startswith(f"[{self.name} ") else f"[{self.name}] {text}")

    def close(self) -> None:
        """See `Display`."""
        self.display.close()


class Screen:
    """A display that nobody waits for: it shows what it is told in a thread of its own.

    What cannot be shown is said once, on standard error.

    Args:
        make: makes the display, of standard output.
        outlet: the kind of thread.
    """

    def __init__(self, make: Callable[[Stream], Display], outlet: type[Outlet] = Outlet) -> None:
        errors = Stream(sys.stderr, lambda text: None)
        self._errors = outlet("standard error", lambda text: None)

        def say(text: str) -> None:
            self._errors.put(errors.write, f"unisono: {text}\n")

        self._outlet = outlet("the terminal", say)
        self._shown = make(Stream(sys.stdout, say))

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self, steps: int, epochs: int | None, workers: int) -> None:
        """See `Display`."""
        self._outlet.put(self._shown.start, steps, epochs, workers)

    def update(self, record: dict[str, Any]) -> None:
        """See `Display`."""
        self._outlet.put(self._shown.update, record)

    def workers(self, alive: int, hosts: int = 1) -> None:
        """See `Display`."""
        self._outlet.put(self._shown.workers, alive, hosts)

    def message(self, text: str) -> None:
        """See `Display`."""
        self._outlet.put(self._shown.message, text)

    def close(self) -> None:
        """See `Display`; a terminal that does not take what is left is not waited for long."""
        self._outlet.put(self._shown.close)
        self._outlet.close(SHOW_SECONDS)
        self._errors.close(LAST_SECONDS)


def display(live: bool, debug: bool = False) -> Screen:
    """The live line on a terminal, plain lines elsewhere.

    Args:
        live: whether there may be a live line.
        debug: no line is drawn over what is printed, and all is shown at once, in its order.
    """

    def made(out: Stream) -> Display:
        console = Console(file=cast(TextIO, out))
        return Live(console) if live and not debug and console.is_terminal else Plain(out)

    return Screen(made, Inline if debug else Outlet)


def quiet() -> Screen:
    """What processes print, and nothing else."""
    return Screen(Silent)
