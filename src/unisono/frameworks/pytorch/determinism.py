"""Several threads a process: operations that add in whatever order threads come give way to those that do not."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

import torch

from unisono.errors import JobError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


class NotDeterministicError(JobError):
    """An operation has no algorithm that gives the same bits each time."""


def pin(threads: int) -> None:
    """Fix the number of threads of this process, and from two on that no result depends on which of them is first.

    On one thread nothing is changed: the other algorithms have other bits, and are slower.

    Args:
        threads: how many.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if threads > 1:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextlib.contextmanager
def explained(device: torch.device | None = None) -> Iterator[None]:
    """An operation that has no such algorithm is named.

    Args:
        device: where it is computed; None = on the CPU.

    Raises:
        NotDeterministicError: there was one.
    """
    try:
        yield
    except RuntimeError as error:
        if "not deterministic because it uses CuBLAS" in str(error):
            raise NotDeterministicError(
                f"on a device an operation must give the same bits each time; products of matrices do with {WORKSPACE} "
                f"at ':4096:8' or ':16:8' alone; received {os.environ.get(WORKSPACE)!r}. Unset it: workers set it then."
            ) from error
        found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
        if found is None:
            raise
        if device is not None and device.type != "cpu":
            raise NotDeterministicError(
                f"on a device an operation must give the same bits each time; {found[1]} has no such algorithm in "
                f"PyTorch {torch.__version__}. Use another operation, or train on CPUs (device='cpu')."
            ) from error
        raise NotDeterministicError(
            f"on several threads an operation must give the same bits each time; {found[1]} has no such algorithm in "
            f"PyTorch {torch.__version__}. Train with --threads 1 and more workers, or use another operation."
        ) from error
