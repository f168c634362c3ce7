"""The life of a process that the warm parent has forked: it works, and says how it has ended."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import traceback
from collections.abc import Callable

from unisono.errors.failure import STACK_SIGNAL, Failure, WorkerFailed, failure
from unisono.frameworks.protocol.device import DeviceFailed
from unisono.runtime.processes.channel import CLOSED
from unisono.runtime.processes.deaths import CLOSED_STATUS
from unisono.runtime.processes.lifeline import prctl
from unisono.runtime.processes.printing import print_for_the_supervisor
from unisono.runtime.processes.report import tell

_PR_SET_NAME = 15


def live(name: str, output: int, report: int, work: Callable[[], None]) -> int:
    """Do a child's work.

    Args:
        name: its role and number.
        output, report: see `Child`.
        work: what it does.

    Returns:
        Its exit status.
    """
    role = name.partition(" ")[0]
    prctl(_PR_SET_NAME, f"unisono-{role}".encode())  # what `ps` and `top` show
    os.dup2(output, 1)
    os.dup2(output, 2)
    print_for_the_supervisor()
    faulthandler.register(STACK_SIGNAL, file=report)
    try:
        trouble = _trouble(name, work)
        tell(report, trouble)
        return 0 if trouble is None else 1
    except OSError as error:
        return CLOSED_STATUS if error.errno in CLOSED else 1
    except SystemExit as request:  # the job's code left by itself
        return request.code if isinstance(request.code, int) and request.code else 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()


def _trouble(name: str, work: Callable[[], None]) -> Failure | None:
    try:
        work()
        return None
    except WorkerFailed as error:
        return error.description
    except DeviceFailed as error:
        traceback.print_exception(error)
        return Failure(str(error), device="memory" if error.memory else "failed")
    except Exception as error:
        return failure(error, name)
