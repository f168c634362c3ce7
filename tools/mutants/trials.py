"""The tests of one mutant, in a process forked when everything heavy is imported and Unisono is not."""

from __future__ import annotations

import doctest
import importlib
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

HEAVY = (
    "_pytest.python", "_pytest.unittest", "pytest_timeout", "xdist.plugin", "numpy.testing", "hypothesis.strategies",
    "torch.utils.data", "torch.utils.tensorboard", "torch.distributed", "torch.utils.checkpoint", "safetensors.torch",
    "rich.progress", "rich.table", "click", "psutil", "cloudpickle", "concurrent.futures.thread",
)  # fmt: skip
"""What tests import; a process that is forked has it already."""


class Outcome(Enum):
    """What the tests say of a mutant."""

    SURVIVED = "survived"
    KILLED = "killed"
    TIMED_OUT = "timed out"


@dataclass(frozen=True)
class Limits:
    """What only tests that hang or go on for ever reach.

    Attributes:
        wall_seconds: of all tests.
        cpu_seconds: of any one process.
    """

    wall_seconds: float
    cpu_seconds: int


def import_heavy(names: Sequence[str] = HEAVY) -> None:
    """Import what is heavy, where it is installed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as tests/conftest.py has it, and read when torch is imported
    import hypothesis

    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
    found = hypothesis.Phase.explicit, hypothesis.Phase.generate  # any counterexample will do, not only the smallest
    hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True, database=None, phases=found)


def put(path: Path, source: bytes, number: int) -> None:
    """Write a module; by its number (its time) Python knows it from others of the same size and second."""
    path.write_bytes(source)
    os.utime(path, (number, number))


def trial(source: Path, module: str, tests: Sequence[str], limits: Limits, output: Path) -> Outcome:
    """Run a module's examples and some tests with the Unisono in a folder.

    Args:
        source: a copy of src/.
        module: the name of the mutated one.
        tests: as pytest takes them.
        limits: after which they are ended.
        output: a file for what they print.
    """
    child = os.fork()
    if not child:
        _begin(source, limits, output)
        status = 1
        try:
            status = _run(source, module, tests)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    ended = _wait(child, limits.wall_seconds)
    if ended is None:
        return Outcome.TIMED_OUT
    if os.WIFEXITED(ended):
        return Outcome.KILLED if os.WEXITSTATUS(ended) else Outcome.SURVIVED
    return Outcome.TIMED_OUT if os.WTERMSIG(ended) == signal.SIGXCPU else Outcome.KILLED


def _begin(source: Path, limits: Limits, output: Path) -> None:
    """Become a process group of its own, whose processes all find this Unisono."""
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 1))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    sys.path.insert(0, str(source))
    os.environ["PYTHONPATH"] = str(source)


def _run(source: Path, module: str, tests: Sequence[str]) -> int:
    import pytest

    mutated = importlib.import_module(module)
    assert Path(str(mutated.__file__)).is_relative_to(source), mutated.__file__
    if doctest.testmod(mutated).failed:
        return 1
    options = ["-x", "-n0", "-p", "no:cacheprovider", "--hypothesis-profile=mutants"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are imported already
    return int(pytest.main([*options, *tests])) if tests else 0


def _wait(child: int, seconds: float) -> int | None:
    """How it ended; None if it was ended. Nothing of its group is left."""
    end = os.pidfd_open(child)
    try:
        over = select.select([end], [], [], seconds)[0]
    finally:
        os.close(end)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return status if over else None


def measured(source: Path, module: str, tests: Sequence[str], output: Path) -> Limits:
    """Limits for some tests, from how long they take when nothing is wrong.

    Raises:
        SystemExit: they fail.
    """
    before, start = _children_seconds(), time.monotonic()
    if trial(source, module, tests, Limits(1800, 1800), output) is not Outcome.SURVIVED:
        raise SystemExit(f"{' '.join(tests)} must pass before there are mistakes; received:\n{output.read_text()}")
    wall, cpu = time.monotonic() - start, _children_seconds() - before
    return Limits(30 + 5 * wall, round(5 + 3 * cpu))


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
