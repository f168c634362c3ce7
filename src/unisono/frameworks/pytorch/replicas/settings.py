"""What groups of replicas have in common, whatever they exchange by."""

from __future__ import annotations

from importlib import import_module
from typing import Any

c10d: Any = import_module("torch._C._distributed_c10d")
"""Not all that it has is in its stubs."""

SECONDS = 600
"""For which a group waits for others, of whom nobody may say that they are late: a generation is ended from outside."""
