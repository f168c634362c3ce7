"""The arrows of the architecture: who may import or start whom, and that the core imports no framework."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "unisono"
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "flax", "optax", "mxnet"}
ENTRANCES = {"unisono", "unisono.__main__", "unisono.version"}
"""What belongs to no layer: the public names and the command, above all, and a number, below."""

MOST_TOP_MODULES = 8


def module(path: Path) -> str:
    """A file's name for import."""
    return ".".join(("unisono", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module(path): path for path in sorted(SOURCE.rglob("*.py"))}


def named(path: Path) -> Iterator[str]:
    """The modules that a file imports, and those of Unisono's that it names in a text, to start them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name for name in inner if name in MODULES] or [node.module]
        elif isinstance(node, ast.Constant) and node.value in MODULES and node.value != "unisono":
            yield node.value


def ranks() -> dict[str, int]:
    """CONTRIBUTING's arrows: each part's place from above; parts in braces stand beside each other."""
    (arrows,) = re.findall(r"Arrows run downward: (.*?)\.\n", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    layers = [re.findall(r"[\w.]+", layer) for layer in arrows.split("→")]
    return {f"unisono.{part}": number for number, layer in enumerate(layers) for part in layer}


def part_of(name: str, parts: dict[str, int]) -> str:
    """The part that a module belongs to: the longest name that its own begins with."""
    return max((part for part in parts if f"{name}.".startswith(f"{part}.")), key=len, default="")


def test_arrows_run_downward_over_the_whole_tree() -> None:
    parts = ranks()
    inside = {name: part_of(name, parts) for name in MODULES if name not in ENTRANCES}
    assert not [name for name, part in inside.items() if not part and name != "unisono.runtime"], "in no layer"
    wrong = [
        f"{name} names {other}"
        for name, part in inside.items()
        for other in named(MODULES[name])
        if other in inside and part != inside[other] and parts.get(part, 0) >= parts[inside[other]]
    ]
    assert not wrong


def test_the_top_level_is_small() -> None:
    assert len(list(SOURCE.glob("*.py"))) <= MOST_TOP_MODULES


def test_only_adapters_import_a_framework() -> None:
    for path in MODULES.values():
        if not {"jax", "keras", "mxnet", "pytorch", "horovod"} & set(path.parts):
            found = {name.split(".")[0] for name in named(path)} & FRAMEWORKS
            # bytes between hosts go through torch.distributed, whatever the model's framework
            assert found <= ({"torch"} if path.parent.name == "hosts" else set()), path


def test_one_host_needs_no_torch() -> None:
    for path in (SOURCE / "hosts").rglob("*.py"):
        tree = ast.parse(path.read_text())
        top = {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
        top |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        assert not {name.split(".")[0] for name in top} & FRAMEWORKS, path
