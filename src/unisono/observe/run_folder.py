"""The run folder: run.json, metrics.jsonl, TensorBoard events, logs and the final parameters."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

from unisono.errors import UsageError
from unisono.machine.processes import birth
from unisono.observe.appended import Appended
from unisono.observe.logs import LineLog
from unisono.observe.metrics import METRICS, plain
from unisono.observe.outlet import PATIENCE_SECONDS, Inline, Outlet
from unisono.values.untrusted import Malformed, Maybe, document

SOCKET = "control.sock"

RUN, PARAMETERS, LOGS, CHECKPOINTS, HOSTS = "run.json", "parameters.safetensors", "logs", "checkpoints", "hosts"

_FIELDS = {
    "exit": Maybe(str), "reason": Maybe(str), "error": Maybe(str), "signal": Maybe(int), "process": Maybe(int),
    "process_birth": Maybe(str), "arguments": Maybe(dict), "best": Maybe({"step": int}), "steps_done": Maybe(int),
    "seconds": Maybe(float), "first_step_seconds": Maybe(float), "parameters_sha256": Maybe(str),
    "resumed": Maybe([dict]), "started": Maybe(str),
}  # fmt: skip
"""What is read of run.json again, as `check` says it."""


def fresh(path: Path) -> Path:
    """A new, empty folder of this name, or with the first free number after it: two runs may start in one second.

    Args:
        path: the name. Where nothing can be made it is given back, and whoever writes there says so.
    """
    for name in chain([path.name], (f"{path.name}-{number}" for number in count(2))):
        try:
            path.with_name(name).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:
            return path
        return path.with_name(name)
    raise AssertionError("numbers do not end")


class Fenced(OSError):
    """Another host keeps the run folder.

    Args:
        certain: whether that is certain; else it may.
    """

    def __init__(self, certain: bool) -> None:
        super().__init__(errno.ESTALE, f"another host {'keeps' if certain else 'may keep'} the run folder by now")
        self.certain = certain


class RunFolder:
    """A folder of one run. From `hold` on, moving it does not part it from its run.

    Args:
        path: the folder.

    Attributes:
        fields: of run.json.
        fence: called before something is written by its name; raises `Fenced` where another host keeps the folder.
        unwritten: the same where the disk has not taken them when the run ended, or None.
    """

    def __init__(self, path: Path) -> None:
        self._named = path
        self.fields: dict[str, Any] = {}
        self.fence: Callable[[], None] = lambda: None
        self._held: int | None = None
        self._lock = threading.RLock()  # a signal's handler may come in between
        self._message: Callable[[str], None] = _on_standard_error
        self._outlet: Outlet = Inline(str(path), self._message)
        self._is_troubled = False
        self.unwritten: dict[str, Any] | None = None

    def hold(self, outlet: Outlet, message: Callable[[str], None]) -> None:
        """A run begins: from now on an outlet writes run.json, and `message` hears what goes wrong."""
        self._outlet, self._message = outlet, message
        with suppress(OSError):
            self._held = _opened(self._named)

    def release(self) -> None:
        """The run has ended: settle, and tell what was lost. A disk that does not answer is not asked again."""
        if self._outlet.close(PATIENCE_SECONDS):
            self._named = self.path
            self.unwritten = plain(self.fields) if self._is_troubled else None
        else:
            self.unwritten = plain(self.fields)
        self._outlet, self._message = Inline(str(self._named), _on_standard_error), _on_standard_error
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    @property
    def path(self) -> Path:
        """Where the folder lies now."""
        return self._present() or self._named

    def _present(self) -> Path | None:
        """Where the folder that is held lies, by the name that was given if that is still its own; None = nowhere."""
        if self._held is None:
            return self._named
        with suppress(OSError):
            if os.path.samestat(self._named.stat(), os.fstat(self._held)):
                return self._named
        with suppress(OSError):
            moved = Path(f"/proc/self/fd/{self._held}").readlink()
            if moved.exists():
                return moved
        return None

    def claim(self) -> Path:
        """The folder, to write the run's state into: made anew where it has been removed.

        Raises:
            OSError: it cannot be made, another run has taken its place, or another host keeps it.
        """
        self.fence()
        return self._claim()

    def _claim(self) -> Path:
        path = self._present()
        if path is not None:
            return path
        if (self._named / RUN).exists():
            raise FileExistsError(errno.EEXIST, "another run has taken the folder's place", str(self._named))
        self._named.mkdir(parents=True, exist_ok=True)
        held, self._held = self._held, _opened(self._named)
        if held is not None:
            os.close(held)
        self._message(f"{self._named} has been removed: it is made anew for what comes now; training goes on")
        return self._named

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make the folder.

        Raises:
            UsageError: it already holds a run, or it cannot be made.
        """
        try:
            if (path / RUN).exists():
                raise UsageError(
                    f"an out folder holds one run; {path} already holds one. Go on with that (--resume auto), or name "
                    "another with --out."
                )
            (path / LOGS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the out folder must be writable; received {path}: {error}. Name another with --out."
            ) from error
        return cls(path)

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """The folder of an earlier run, to go on in it.

        Raises:
            UsageError: it holds no run.
        """
        folder = cls(path)
        folder.fields = read_run(path)
        (path / LOGS).mkdir(exist_ok=True)
        return folder

    @property
    def begun(self) -> str:
        """When its run was begun for the first time: no other run in this folder has that."""
        return str(self.fields.get("started"))

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / CHECKPOINTS

    def claim_checkpoints(self) -> Path:
        """See `claim`; of another host it would be the same checkpoint, so there is no fence."""
        return self._claim() / CHECKPOINTS

    def update(self, **values: Any) -> None:
        """Change fields of run.json, all or nothing; a full disk keeps the old ones, and training goes on."""
        with self._lock:
            self.fields = {**self.fields, **values}
            text = json.dumps(plain(self.fields), indent=2, allow_nan=False) + "\n"
            self._outlet.put(self._write, text)

    def _write(self, text: str) -> None:
        try:
            path = self.claim()
            aside = path / (RUN + ".tmp")
            try:
                aside.write_text(text)
                aside.replace(path / RUN)
            finally:
                with suppress(OSError):
                    aside.unlink(missing_ok=True)
            self._is_troubled = False
        except Fenced:
            return  # that host tells how the run goes
        except OSError as error:
            if not self._is_troubled:
                self._message(f"{self._named / RUN} could not be written: {error}; training goes on")
            self._is_troubled = True

    def put_back(self, fields: Mapping[str, Any]) -> None:
        """Let run.json say again what it said before."""
        with self._lock:
            self.fields = {}
            self.update(**fields)

    def interrupted(self, number: int) -> None:
        """Say in run.json that this signal has ended the run at once."""
        self.update(exit="interrupted", reason="signal", signal=number)
        self._outlet.settle(1.0)

    @property
    def parameters(self) -> Path:
        """The final parameters' file."""
        return self.path / PARAMETERS

    @property
    def metrics(self) -> Path:
        """The metrics' file."""
        return self.path / METRICS

    def log(self, name: str, prefix: str, show: Callable[[str], None]) -> LineLog:
        """What a process prints goes to its log file ("worker 1" → logs/worker-1.log), and is shown.

        Args:
            name: the process.
            prefix, show: see `LineLog`.
        """
        file = Appended(self.claim, f"{LOGS}/{name.replace(' ', '-')}.log", self._message)
        put = self._outlet.put
        return LineLog(partial(put, file.write), prefix, show, partial(put, file.close))


def _opened(path: Path) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _on_standard_error(text: str) -> None:
    print(f"unisono: {text}", file=sys.stderr)


def this_process() -> dict[str, Any]:
    """The fields of run.json that tell who keeps it: its number, and what tells it from others that had the number."""
    return {"process": os.getpid(), "process_birth": birth(os.getpid())}


def read_run(path: Path) -> dict[str, Any]:
    """run.json of a folder.

    Raises:
        UsageError: the folder holds no run.
    """
    try:
        return document(path / RUN, _FIELDS)
    except Malformed as error:
        raise UsageError(
            f"a run folder holds {RUN}; {path} does not ({error}). Name the folder that train printed."
        ) from error


def status_of(manifest: Mapping[str, Any]) -> str:
    """What became of a run of another process; one whose process has gone without a word has failed."""
    status, process = str(manifest.get("exit") or "failed"), manifest.get("process")
    if status == "running" and (process is None or (birth(process) or "none") != manifest.get("process_birth")):
        return "failed"
    return status


def signal_of(manifest: Mapping[str, Any]) -> int:
    """The signal that has interrupted a run; SIGINT where it does not say."""
    number = manifest.get("signal") or 0
    return number if 0 < number < signal.NSIG else int(signal.SIGINT)
