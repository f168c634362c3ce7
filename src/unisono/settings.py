"""How a job is trained: each setting once, from the command's options and `train`'s arguments to the workers."""
# ruff: noqa: RUF009 - `option` makes a field

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial, wraps
from numbers import Integral
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from unisono.errors import UsageError
from unisono.partition.layout import Layout
from unisono.values import bounds
from unisono.values.durations import seconds_of
from unisono.values.text import excerpt

P = ParamSpec("P")
J = TypeVar("J")
R = TypeVar("R")

AUTO = "auto"
"""Instead of a layout: the fastest one. Instead of an earlier run: that in `out`, if there is one."""

ELSEWHERE = ("debug", "on")
"""Settings of a run that is not by processes of this host."""

OF_SEVERAL_HOSTS = ("interface", "ports", "host_timeout", "data_host", "store", "min_hosts", "on_signal")
"""Settings that act where several hosts train together."""


def option(
    default: Any, help: str, check: Callable[[str, Any], Any], metavar: str | None = None, choices: Sequence[str] = ()
) -> Any:
    """A field that is an argument of `train`, and an option of the command.

    Args:
        default: its value where none is given.
        help: what it is, for both.
        check: (name, what was given) → the value, where it is not None; raises UsageError.
        metavar: how the option's help names a value, where its type says too little.
        choices: the words that it may be; none = any.
    """
    return field(default=default, metadata={"help": help, "check": check, "metavar": metavar, "choices": choices})


def _word(default: str, help: str, *choices: str) -> Any:
    return option(default, help, partial(bounds.one_of, choices=choices), choices=choices)


def _checked(settings: Any, whose: str = "") -> None:
    """Hold each field to its bounds; NumPy's numbers become Python's."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        if value is not None or each.default is not None:
            object.__setattr__(settings, each.name, each.metadata["check"](whose + each.name, value))


def _unchanged(what: str, value: Any) -> Any:
    return value  # whoever reads it checks it


def _folder(what: str, value: Any) -> Path | str:
    return AUTO if what == "resume" and value == AUTO else bounds.folder(what, value)


def _layout(what: str, value: Any) -> Layout | str:
    if not isinstance(value, str | Layout):
        raise UsageError(f"a layout is a unisono.Layout or text such as data=2,pipeline=2; received {excerpt(value)}.")
    return Layout.parse(value) if isinstance(value, str) and value != AUTO else value


def _ray(what: str, value: Any) -> Ray:
    if not isinstance(value, Ray):
        raise UsageError(f"on must be a unisono.Ray; received {excerpt(value)}. Write on=unisono.Ray().")
    return value


def _part_of_a_path(what: str, value: Any) -> str:
    if "/" in bounds.name(what, value):
        raise UsageError(f"a run's name is a part of its folder's, runs/NAME-DATE-TIME; received {value!r}. Use out=.")
    return str(value)


@dataclass(frozen=True)
class Checkpointing:
    """When checkpoints are written, and how many are kept.

    Attributes:
        steps: write one every so many steps, or None.
        seconds: write one every so many seconds, or None.
        keep: how many to keep; the best one is kept besides.

    >>> Checkpointing.parse("10m"), Checkpointing.parse("200", keep=1)
    (Checkpointing(steps=None, seconds=600.0, keep=2), Checkpointing(steps=200, seconds=None, keep=1))
    """

    steps: int | None = None
    seconds: float | None = None
    keep: int = 2

    @staticmethod
    def parse(every: str | int | None, keep: int = 2) -> Checkpointing:
        """From "200" (steps) or "10m" (time); None = at the end only."""
        if every is None:
            return Checkpointing(keep=keep)
        steps = bounds.number_in(every) if isinstance(every, str) else every
        if isinstance(steps, Integral):
            return Checkpointing(steps=int(bounds.whole("checkpoint_every", steps)), keep=keep)
        return Checkpointing(seconds=seconds_of(every, "checkpoint_every"), keep=keep)


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Where `train(job, on=...)` trains: a Ray cluster, and how much of it.

    >>> Ray(hosts=0)
    Traceback (most recent call last):
    unisono.errors.UsageError: Ray's hosts must be a whole number from 1 to 65536; received 0.
    """

    # fmt: off
    address: str | None = option(None,
        "Of the Ray cluster. [default: RAY_ADDRESS, else this machine's, else a new one of this machine alone]",
        _unchanged, "HOST:PORT")
    hosts: int | None = option(None,
        "Nodes of the Ray cluster that take part. [default: all that have the CPUs]",
        partial(bounds.whole, most=bounds.MOST_HOSTS))
    workers_per_host: int | None = option(None,
        "Workers on each. [default: as many as their CPUs allow]", partial(bounds.whole, most=bounds.MOST_WORKERS))
    ship: str | Path | None = option(None,
        "Ray copies DIR to every host, for modules of the job's. [default: hosts see the same files]",
        bounds.folder, "DIR")
    # fmt: on

    def __post_init__(self) -> None:
        _checked(self, "Ray's ")
        if isinstance(self.ship, Path) and not self.ship.is_dir():
            raise UsageError(f"Ray's ship names a folder that is copied to every host; {self.ship} is none.")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a job is trained, which is no part of the job.

    Raises:
        UsageError: something breaks a rule (numbers have bounds: `unisono.values.bounds`).

    >>> Settings(layout="data=2,pipeline=2", checkpoint_every="10m").split
    Layout(data=2, pipeline=2)
    """

    # fmt: off
    workers: int | None = option(None,
        "Processes of a host that compute. [default: the physical cores]",
        partial(bounds.whole, most=bounds.MOST_WORKERS))
    threads: int = option(1,
        "Threads of each worker; part of the recorded numerics.", partial(bounds.whole, most=bounds.MOST_THREADS))
    device: str = _word(AUTO,
        "What workers compute on. cuda: each owns a GPU, and unless told otherwise each visible GPU has one. auto: "
        "CPUs, and GPUs that are not used are named once.", AUTO, "cpu", "cuda")
    layout: Layout | str | None = option(None,
        "How the work is split: data=N,pipeline=N, or auto, which tries what the workers allow for a few steps each. "
        "[default: the data alone]", _layout, "LAYOUT")
    recompute: str = _word("none",
        "Keep only what crosses between the model's blocks, and compute the rest again for the backward pass: less "
        "memory, more time.", "none", "blocks")
    timeline: bool = option(False,
        "Write timeline.json for ui.perfetto.dev: what every worker did when since this start.", bounds.switch)
    out: str | Path | None = option(None,
        "Run folder. [default: runs/NAME-DATE-TIME]", bounds.folder, "DIR")
    resume: str | Path | None = option(None,
        "Go on with a run, in its folder. auto: with that in --out if it can go on; a finished one returns at once, in "
        "an empty folder one begins.", _folder, "RUN_DIR|auto")
    allow_change: bool = option(False,
        "Resume although hyperparameters, schedule or microbatches have changed: another result.", bounds.switch)
    checkpoint_every: str | int | None = option(None,
        "Steps (200) or a time (10m) between checkpoints. [default: at the end only]", _unchanged, "N|TIME")
    keep: int = option(2, "Checkpoints to keep, besides the best.", bounds.whole)
    max_time: str | None = option(None,
        "End in time (11h50m) as a signal would: with a checkpoint.", _unchanged, "TIME")
    stall_seconds: float | None = option(None,
        "Replace a worker without progress for so long. [default: by its usual pace]", bounds.seconds)
    interface: str | None = option(None,
        "Network interface between hosts. [default: the one that leads to where they meet]", bounds.name, "NAME")
    ports: str | range | None = option(None,
        "Ports on which hosts may listen, where a firewall closes others. [default: any]", bounds.ports, "LOW-HIGH")
    host_timeout: float = option(10.0,
        "A host that is silent for so many seconds is lost; the others go on.", partial(bounds.seconds, least=1))
    data_host: int | None = option(None,
        "Host N alone has the data, and reads them for the others. [default: each host reads its own]",
        partial(bounds.whole, least=0, most=bounds.MOST_HOSTS), "N")
    store: str | None = option(None,
        "Hosts meet where unisono store serves. [default: as the launcher says]", bounds.name, "HOST:PORT")
    min_hosts: int | None = option(None,
        "With fewer hosts the others wait for more. [default: a run begins with all, and goes on with any]",
        partial(bounds.whole, most=bounds.MOST_HOSTS), "N")
    on_signal: str = _word("leave",
        "One of several hosts that is sent SIGTERM, SIGHUP or SIGUSR1 leaves the others, or stops the run with a "
        "checkpoint, as Ctrl-C does.", "leave", "stop")
    on: Ray | None = option(None, "Train on a Ray cluster, which this process drives.", _ray)
    debug: bool = option(False,
        "One process, no live line: breakpoints and profilers work; the same bits.", bounds.switch)
    name: str = option("job", "What the run folder is called without out.", _part_of_a_path)
    arguments: Mapping[str, Any] | None = option(None,
        "What made the job, kept in run.json: numbers, text, paths, NumPy's values and what holds them.", _unchanged)
    live: bool = option(True, "Draw a progress line on a terminal.", bounds.switch)
    # fmt: on

    def __post_init__(self) -> None:
        _checked(self)
        _ = self.checkpointing, self.max_seconds
        if self.on is None:
            return
        if self.workers is not None:
            raise UsageError(
                f"on Ray workers are counted by host; received workers={self.workers}. Write "
                f"Ray(workers_per_host={self.workers}), or --workers-per-host {self.workers}."
            )
        if self.layout == AUTO:
            raise UsageError("layout 'auto' tries layouts on this machine, not on Ray's; name one: data=2,pipeline=2.")
        if self.store is not None:
            raise UsageError(f"on Ray the driver serves the store; received store={self.store!r}. Leave it away.")
        if self.debug:
            raise UsageError("debug runs in one process; received a Ray cluster too. Leave one of them out.")

    @property
    def split(self) -> Layout:
        """The layout; the data alone where none is named, or where the fastest is still to be found."""
        return self.layout if isinstance(self.layout, Layout) else Layout()

    @property
    def names_folder(self) -> bool:
        """Whether the run folder is named."""
        return self.out is not None or self.resume is not None

    @property
    def checkpointing(self) -> Checkpointing:
        """When checkpoints are written, and how many are kept."""
        return Checkpointing.parse(self.checkpoint_every, self.keep)

    @property
    def max_seconds(self) -> float | None:
        """After so long the run ends by itself, as if by SIGTERM; None = it does not."""
        return None if self.max_time is None else seconds_of(self.max_time, "max_time")

    @property
    def open_ports(self) -> range | None:
        """Those on which hosts may listen; None = any."""
        return self.ports if isinstance(self.ports, range) else None

    @property
    def leaves(self) -> bool:
        """Whether one of several hosts leaves alone where a system's signal tells it to go; else the run ends."""
        return self.on_signal == "leave"


def by_name(
    settings: Callable[P, Settings],
) -> Callable[[Callable[[J, Settings], R]], Callable[Concatenate[J, P], R]]:
    """A call whose arguments are a job and, each by its name, settings: its signature and its help say so."""

    def decorate(call: Callable[[J, Settings], R]) -> Callable[Concatenate[J, P], R]:
        @wraps(call)
        def taking(job: J, *args: P.args, **given: P.kwargs) -> R:
            return call(job, settings(*args, **given))

        own = inspect.signature(call)
        named = inspect.signature(settings).parameters.values()
        taking.__signature__ = own.replace(parameters=[own.parameters["job"], *named])  # type: ignore[attr-defined]
        lines = [f"    {each.name}: {each.metadata['help']}" for each in fields(Settings)]
        taking.__doc__ = "\n".join([inspect.cleandoc(call.__doc__ or ""), "", "Settings:", *lines])
        return taking  # type: ignore[return-value]  # which takes the job by its name too

    return decorate
