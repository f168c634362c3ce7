"""Several threads a process: operations that add in whatever order threads come give way to those that do not."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

from unisono.errors import JobError


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
        JobError: there was one.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
        if found is None:
            raise
        if device is not None and device.type != "cpu":
            raise JobError(
                f"on a device an operation must give the same bits each time; {found[1]} has no such algorithm in "
                f"PyTorch {torch.__version__}. Use another operation, or train on CPUs (device='cpu')."
            ) from error
        raise JobError(
            f"on several threads an operation must give the same bits each time; {found[1]} has no such algorithm in "
            f"PyTorch {torch.__version__}. Train with --threads 1 and more workers, or use another operation."
        ) from error
