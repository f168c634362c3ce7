"""Where a trial takes place: its folder, its commands, and what was wrong with them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from paths import PYTHONPATH, SOURCES
from reliability.prefork import Prefork
from waiting import until

JOB = Path(__file__).parent / "work.py"
HANG_SECONDS = 40.0
"""How long an idle machine waits for a trial's command before it hangs."""

MOST_SHOWN = 300
WORD = "7"
"""An input whose answer is asked for."""


class Impossible(Exception):
    """This machine does not have what a trial needs."""


@dataclass(frozen=True)
class Done:
    """How a command ended.

    Attributes:
        status: its exit status; −n: killed by signal n; None: it hung, and was ended.
        out, err: what it has written.
    """

    status: int | None
    out: str
    err: str

    @property
    def parameters(self) -> str | None:
        """The hash that it printed."""
        found = re.findall(r"^parameters (\w{64})$", self.out, re.M)
        return found[-1] if found else None

    @property
    def last(self) -> str:
        """The end of what it said, in one line."""
        return (self.err.strip() or self.out.strip())[-MOST_SHOWN:].replace("\n", " | ")


@dataclass
class Place:
    """Where one trial takes place.

    Attributes:
        folder: its own.
        grounds: what all trials share.
        tried: what it tries, for people.
        wrong: what went wrong.
        out: the run folder.
    """

    folder: Path
    grounds: Grounds
    tried: str = "nothing"
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.out = self.folder / "out"
        self.temporary.mkdir(parents=True)

    def tries(self, what: str) -> None:
        """Say what it tries."""
        self.tried = what

    @property
    def temporary(self) -> Path:
        """Its folder for temporary files; processes are known by it."""
        return self.folder / "tmp"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its commands."""
        return {**os.environ, "PYTHONPATH": PYTHONPATH, "TMPDIR": str(self.temporary), "COLUMNS": "200",
                "MEETING": str(self.folder)}  # fmt: skip

    def forked(self, *arguments: object, **variables: str) -> Done:
        """Run a command in a fork of the process that has imported everything."""
        outputs = [str(self.folder / name) for name in ("stdout", "stderr")]
        prefork = self.grounds.prefork
        number = prefork.start(
            arguments=[*map(str, arguments)], folder=str(self.folder), outputs=outputs,
            environment={**self.environment, **variables},
        )  # fmt: skip
        hung = self._hangs(lambda: not _runs(number))
        status = prefork.status()
        return Done(None if hung else status, *(Path(path).read_text(errors="replace") for path in outputs))

    def start(
        self, *arguments: object, variables: Mapping[str, str] | None = None, before: Sequence[str] = (), **streams: Any
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        """Start the command; what it says goes to two files, unless told otherwise."""
        with (self.folder / "stdout").open("wb") as out, (self.folder / "stderr").open("wb") as err:
            return subprocess.Popen(
                [*before, sys.executable, "-m", "unisono", *map(str, arguments)], cwd=self.folder,
                **{"stdout": out, "stderr": err, "stdin": subprocess.DEVNULL,
                   "env": {**self.environment, **(variables or {})}, **streams},
            )  # fmt: skip

    def ended(self, process: subprocess.Popen[bytes]) -> Done:
        """Wait for a command to end."""
        hung = self._hangs(lambda: process.poll() is not None)
        texts = ((self.folder / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        return Done(None if hung else process.wait(), *texts)

    def command(self, *arguments: object, **how: Any) -> Done:
        """Run the command."""
        return self.ended(self.start(*arguments, **how))

    def _hangs(self, is_over: Any) -> bool:
        try:
            until(is_over, "the command ends", HANG_SECONDS)
        except AssertionError:
            for process in self.running():
                with suppress(psutil.Error):
                    process.kill()
            until(is_over, "what was killed ends")
            return True
        return False

    def met(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the job is in the phase in which it is to be met; not if the command ends before."""
        meeting = self.folder / "met"
        with suppress(AssertionError):
            until(lambda: meeting.exists() or process.poll() is not None, "the phase begins", HANG_SECONDS)
        return meeting.exists()

    def said(self) -> str:
        """What the command has written so far."""
        return "".join((self.folder / name).read_text(errors="replace") for name in ("stdout", "stderr"))

    def go(self) -> None:
        """Let the job that was met go on."""
        (self.folder / "go").touch()

    def running(self) -> list[psutil.Process]:
        """The processes of this trial."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                found += [process] if process.environ().get("TMPDIR") == str(self.temporary) else []
        return found

    def check(self, done: Done, *statuses: int, shows_the_jobs: bool = False, cut: bool = False) -> bool:
        """Whether a command ended as it should: status, no traceback of Unisono's, nothing left.

        Args:
            done: how it ended.
            statuses: that are right.
            shows_the_jobs: whether a traceback of the job's code may be shown.
            cut: whether it could not tidy up: what lies in the run folder goes when the run is resumed.
        """
        before, text = len(self.wrong), done.out + done.err
        if done.status is None:
            self.wrong.append("it hung")
        elif done.status not in statuses:
            self.wrong.append(f"exit status {done.status}, not {' or '.join(map(str, statuses))}: {done.last}")
        if str(SOURCES / "unisono") in text or ("Traceback (most recent call last)" in text and not shows_the_jobs):
            self.wrong.append(f"a traceback: {done.last}")
        if control := set(re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)) - {"\r"}:
            self.wrong.append(f"control characters: {control}")
        self.leaves_nothing(cut)
        return len(self.wrong) == before

    def leaves_nothing(self, cut: bool = False) -> None:
        """Nothing of Unisono's is left running, or lying about; see `check`."""
        try:
            until(lambda: not self.running(), "nothing is left running", HANG_SECONDS)
        except AssertionError:
            self.wrong.append(f"left running: {[' '.join(process.cmdline())[-80:] for process in self.running()]}")
            for process in self.running():
                process.kill()
        left = [path.name for path in self.temporary.glob("unisono*")]
        left += [f"/dev/shm/{path.name}" for path in Path("/dev/shm").glob("unisono*")]
        for pattern in () if cut else ("control.sock", "*.tmp", "checkpoints/.*"):
            left += [path.name for path in self._in_out(pattern)]
        if left:
            self.wrong.append(f"left lying: {left}")

    def _in_out(self, pattern: str) -> list[Path]:
        return list(self.out.glob(pattern)) if self.out.is_dir() else []

    def manifest(self) -> dict[str, Any]:
        """run.json; nothing where it is none."""
        with suppress(OSError, ValueError):
            return dict(json.loads((self.out / "run.json").read_text()))
        return {}

    def hold_to(
        self, steps: int, hash_: str | None, records: bool = False, heavy: int = 0, stopped: bool = False
    ) -> None:  # fmt: skip
        """The parameters, and the records of the run folder, are those of the undisturbed run.

        Args:
            steps: of which length.
            hash_: of the parameters.
            records: whether there must be records.
            heavy: see the job.
            stopped: whether it ended before it was over: without the evaluation of its end.
        """
        expected, losses = self.grounds.truth(steps, heavy)
        if stopped and losses[-1].get("loss") is None:
            losses = losses[: max(len(losses) - 1, self.records())]
        if hash_ != expected:
            self.wrong.append(f"other parameters after {steps} steps: {hash_}, not {expected}")
        if records and (found := results(self.out)) != losses:
            other = next((n for n, pair in enumerate(zip(found, losses, strict=False)) if pair[0] != pair[1]), None)
            self.wrong.append(f"other records: {len(found)} of {len(losses)}, the first that differs {other}")

    def resumes(self, must: bool = True, heavy: int = 0, records: bool = True) -> None:
        """The run goes on to step 16, to the bits of the undisturbed one; or has nothing to go on from.

        Args:
            must: whether it has something to go on from.
            heavy: see the job.
            records: whether it has all of them.
        """
        if not must and not self.checkpoints:
            return
        done = self.forked("unisono", "train", JOB, "steps=16", f"heavy={heavy}", "--resume", self.out, "--debug")
        if self.check(done, *((0,) if must else (0, 1, 2))) and done.status == 0:
            self.hold_to(16, done.parameters, records, heavy)

    @property
    def checkpoints(self) -> list[Path]:
        """Those that are there, sound or not."""
        return self._in_out("checkpoints/step-*")

    def records(self) -> int:
        """How many lines metrics.jsonl has."""
        with suppress(OSError):
            return (self.out / "metrics.jsonl").read_bytes().count(b"\n")
        return 0


class Grounds:
    """What all trials of a campaign share: undisturbed runs to compare with, and a process to fork.

    Args:
        folder: where it keeps them.

    Attributes:
        answers: what the undisturbed run answers, by what was asked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefork = Prefork()
        self.answers: dict[tuple[str, ...], str] = {}
        self._truths: dict[tuple[int, int], tuple[str, list[dict[str, Any]]]] = {}

    def truth(self, steps: int, heavy: int = 0) -> tuple[str, list[dict[str, Any]]]:
        """The hash of the parameters after so many undisturbed steps, and the records."""
        if (steps, heavy) not in self._truths:
            place = Place(self.folder / f"truth-{steps}-{heavy}", self)
            done = place.forked(
                "unisono", "train", JOB, f"steps={steps}", f"heavy={heavy}", "--debug", "--out", place.out
            )  # fmt: skip
            assert done.status == 0, done.last
            assert done.parameters is not None
            self._truths[steps, heavy] = done.parameters, results(place.out)
        return self._truths[steps, heavy]

    @cached_property
    def run(self) -> Path:
        """The folder of an undisturbed run of 12 steps, with three checkpoints."""
        place = Place(self.folder / "run", self)
        done = place.forked(
            "unisono", "train", JOB, "--debug", "--out", place.out, "--checkpoint-every", 4, "--keep", 3
        )  # fmt: skip
        assert done.status == 0, done.last
        return place.out

    def close(self) -> None:
        """End what it has started, and remove what it keeps."""
        self.prefork.close()
        shutil.rmtree(self.folder)


def results(out: Path) -> list[dict[str, Any]]:
    """Of each record of a run folder the values that belong to the result."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    wanted = lambda name: name in ("step", "loss") or name.startswith("evaluation")  # noqa: E731
    return [{name: value for name, value in line.items() if wanted(name)} for line in lines]


def _runs(number: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
