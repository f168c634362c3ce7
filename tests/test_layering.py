"""The arrows of the architecture: who may import whom, and that the core imports no framework."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "unisono"
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "flax", "optax", "mxnet"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def layers() -> list[set[str]]:
    """CONTRIBUTING's arrows, from above: the parts of the package that stand beside each other."""
    (arrows,) = re.findall(r"Arrows run downward: (.*?)\.\n", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    return [set(re.findall(r"[\w.]+", layer)) for layer in arrows.split("→")]


def test_arrows_run_downward() -> None:
    rank = {f"unisono.{part}": number for number, layer in enumerate(layers()) for part in layer}
    assert len(rank) > 15, "the line is read"
    wrong = []
    for part, number in rank.items():
        place = SOURCE / part.removeprefix("unisono.").replace(".", "/")
        files = list(place.rglob("*.py")) or [place.with_suffix(".py")]
        wrong += [
            f"{file.relative_to(SOURCE)} imports {name}"
            for file in files
            for name in imports(file)
            if any(f"{name}.".startswith(f"{other}.") and below < number for other, below in rank.items())
        ]
    assert not wrong


def test_only_adapters_import_a_framework() -> None:
    for path in SOURCE.rglob("*.py"):
        if not {"jax", "keras", "mxnet", "pytorch"} & set(path.parts):
            found = {name.split(".")[0] for name in imports(path)} & FRAMEWORKS
            # bytes between hosts go through torch.distributed, whatever the model's framework
            assert found <= ({"torch"} if path.parent.name == "cluster" else set()), path


def test_one_host_needs_no_torch() -> None:
    for path in (SOURCE / "cluster").glob("*.py"):
        tree = ast.parse(path.read_text())
        top = {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
        top |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        assert not {name.split(".")[0] for name in top} & FRAMEWORKS, path


def test_only_the_outermost_layer_knows_of_hosts() -> None:
    for path in SOURCE.glob("*/*.py"):
        if path.parent.name != "cluster":
            assert not any(name.startswith("unisono.cluster") for name in imports(path)), path


@pytest.mark.parametrize(("package", "allowed"), [
    ("partition", {"unisono.partition", "unisono.bounds", "unisono.texts", "unisono.errors"}),
    ("gradients", {"unisono.gradients"}),
    ("memory", {"unisono.memory", "unisono.errors"}),
    ("machine", {"unisono.machine", "unisono.errors"}),
])  # fmt: skip
def test_low_packages_stay_low(package: str, allowed: set[str]) -> None:
    for path in (SOURCE / package).glob("*.py"):
        ours = {name for name in imports(path) if name.startswith("unisono")}
        assert all(any(name.startswith(prefix) for prefix in allowed) for name in ours), path
