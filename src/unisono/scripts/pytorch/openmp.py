"""The script's own threads sleep while workers compute.

OpenMP's threads spin for milliseconds after each operation, on cores that workers need then. GNU's does so only while
it has no more threads than cores: it is given more, which have nothing to do. Intel's and LLVM's can be told.
"""

from __future__ import annotations

import _thread
import ctypes
import threading
from collections.abc import Mapping
from pathlib import Path

import torch

_DECIDED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_asleep(variables: Mapping[str, str]) -> None:
    """Have threads that wait for work sleep, unless somebody has decided how they wait.

    Args:
        variables: this process's.
    """
    if any(name in variables for name in _DECIDED) or torch.get_num_threads() == 1:
        return
    for path in _loaded():
        library = ctypes.CDLL(path)
        if hasattr(library, "kmp_set_blocktime"):
            library.kmp_set_blocktime(0)
        else:
            _outnumber(library, library.omp_get_num_procs() - torch.get_num_threads() + 2)


def _loaded() -> list[str]:
    """The OpenMP libraries of this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {Path(line.split(maxsplit=5)[5]) for line in lines if ".so" in line}
    return [str(path) for path in paths if path.name.startswith(("libgomp", "libiomp", "libomp")) and path.is_file()]


def _outnumber(library: ctypes.CDLL, threads: int) -> None:
    """Have a thread with a team of so many, for as long as this process lives."""
    nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # of no pointer
    there = threading.Event()

    def hold() -> None:
        library.GOMP_parallel(nothing, None, max(threads, 2), 0)
        there.set()
        threading.Event().wait()

    _thread.start_new_thread(hold, ())  # not `threading`'s: nobody's list of threads has it
    there.wait()
