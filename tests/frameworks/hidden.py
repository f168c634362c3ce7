"""Models whose framework this module does not name: only making one shows whose it is."""

from __future__ import annotations

import importlib
from typing import Any


def mlp_of(kit: str) -> Any:
    """A kit's multi-layer perceptron."""
    return importlib.import_module(f"frameworks.kits.{kit}").MODELS["mlp"]()
