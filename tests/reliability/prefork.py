"""Commands in forks of a process that has imported everything: as `unisono …`, without its second of imports.

Each line that it reads is a command as JSON; it answers with the number of the process, and with its exit status.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from paths import PYTHONPATH


class Prefork:
    """The process; it ends with its last command when this is closed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "reliability.prefork"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": PYTHONPATH}, text=True, encoding="ascii",
        )  # fmt: skip

    def start(self, **command: Any) -> int:
        """Start one: see `_child`. Returns its number."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def status(self) -> int:
        """The exit status of the command that was started; waits for it."""
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def _serve() -> None:
    import unisono.api
    import unisono.cli
    import unisono.frameworks.pytorch.model  # noqa: F401
    from unisono.runtime.processes.lifeline import die_with_parent

    own = os.getpid()
    for line in sys.stdin:
        command = json.loads(line)
        if not (process := os.fork()):
            die_with_parent(own)
            _child(**command)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def _child(arguments: list[str], folder: str, environment: dict[str, str], outputs: list[str]) -> None:
    """Become a command.

    Args:
        arguments: `unisono …`, or `asked …` for what Python code asks a run.
        folder: where it works.
        environment: its variables.
        outputs: files that take stdout and stderr.
    """
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = arguments
    status = 1
    try:
        from reliability import asked
        from unisono import cli

        (cli.main if Path(arguments[0]).name == "unisono" else asked.main)()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
