"""Which adapter serves a job. Adapters are imported only when a job needs them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from unisono.errors import UsageError


@dataclass(frozen=True)
class Framework:
    """A framework's two halves: the adapter's class and its data functions (a module)."""

    name: str
    adapter: Any
    data: Any


def pytorch() -> Framework:
    """The PyTorch adapter.

    Raises:
        UsageError: torch is not installed.
    """
    try:
        model = importlib.import_module("unisono.frameworks.pytorch.model")
        data = importlib.import_module("unisono.frameworks.pytorch.data")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"this job needs PyTorch; {error.name!r} is not installed. Install it with: pip install 'unisono[torch]'"
        ) from error
    return Framework("torch", model.TorchAdapter, data)
