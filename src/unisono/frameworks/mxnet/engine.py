"""MXNet's engine held still: operations run at once, in the thread that asks for them, on a known number of threads.

MXNet's usual engine hands operations to threads of its own, whose OpenMP settings nobody else can reach. Its naive
engine has none: a process that has computed is still single-threaded and may be forked, and steps are not slower.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mxnet
from mxnet.base import _LIB, check_call


@contextmanager
def _without_announcement() -> Iterator[None]:
    """The engine says on standard error that it starts; what a run prints belongs to its job."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def pin(threads: int) -> None:
    """Start the naive engine, unless the job's code has started one already, and fix this thread's OpenMP threads."""
    os.environ["MXNET_ENGINE_TYPE"] = "NaiveEngine"
    with _without_announcement():
        mxnet.nd.zeros((1,)).wait_to_read()
    check_call(_LIB.MXSetNumOMPThreads(ctypes.c_int(threads)))


def threads() -> int:
    """OpenMP threads of this thread's operations."""
    return int(_LIB.omp_get_max_threads())


class _Context(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("number", ctypes.c_int))


def is_naive() -> bool:
    """Whether the engine runs operations in the thread that asks for them: one is sent to see where it comes."""
    seen: list[int] = []
    here = _Context(1, 0)  # the CPU
    visit = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(lambda *_: seen.append(threading.get_native_id()))
    check_call(_LIB.MXEnginePushSync(visit, None, None, ctypes.byref(here), None, 0, None, 0, None, 0, b"visit"))
    mxnet.nd.waitall()
    return seen == [threading.get_native_id()]


def cpu_capability() -> str:
    """The widest vectors that oneDNN and OpenBLAS may choose here."""
    flags = next((line.split() for line in Path("/proc/cpuinfo").read_text().splitlines() if line[:5] == "flags"), [])
    return next((name for name in ("avx512f", "avx2", "avx") if name in flags), "sse")
