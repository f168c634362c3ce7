"""The arrows of the architecture: who may import whom, and that the core imports no framework."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "unisono"
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "flax", "optax", "mxnet"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_adapters_import_a_framework(path: Path) -> None:
    if not {"jax", "keras", "mxnet", "pytorch"} & set(path.parts):
        assert not {name.split(".")[0] for name in imports(path)} & FRAMEWORKS


@pytest.mark.parametrize(("package", "allowed"), [
    ("partition", {"unisono.partition", "unisono.errors"}),
    ("gradients", {"unisono.gradients"}),
    ("memory", {"unisono.memory", "unisono.errors"}),
])  # fmt: skip
def test_low_packages_stay_low(package: str, allowed: set[str]) -> None:
    for path in (SOURCE / package).glob("*.py"):
        ours = {name for name in imports(path) if name.startswith("unisono")}
        assert all(any(name.startswith(prefix) for prefix in allowed) for name in ours), path
