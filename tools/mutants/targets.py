"""What is mutated, and which tests belong to it."""

from __future__ import annotations

import re
from pathlib import Path

GROUPS = {
    "gradients": ["gradients/*.py"],
    "partition": ["partition/*.py"],
    "rules": [
        "runtime/rules/*.py", "runtime/state/backward_progress.py", "runtime/state/host_shares.py",
        "runtime/state/records.py", "runtime/worker/lr_schedule.py", "hosts/membership.py", "hosts/ready_sums.py",
    ],
    "checkpoint": ["checkpoint/*.py"],
    "memory": ["memory/*.py"],
}  # fmt: skip

END_TO_END = {
    "gradients": ["tests/runtime/test_same_bits.py::test_values_are_the_plain_loops[wild]"],
    "partition": ["tests/runtime/test_same_bits.py::test_values_are_the_plain_loops[odd]"],
    "rules": ["tests/runtime/test_same_bits.py::test_one_hash[wild]"],
    "checkpoint": ["tests/test_bad_disks.py"],
    "memory": ["tests/runtime/test_same_bits.py::test_one_hash[wild]"],
}
"""What a mutant that survives its own tests must pass as well: whole runs."""


def modules(package: Path, group: str) -> list[str]:
    """The modules of a group, as paths in the package."""
    return sorted(str(path.relative_to(package)) for pattern in GROUPS[group] for path in package.glob(pattern))


def dotted(module: str) -> str:
    """A module's name for import.

    >>> dotted("gradients/tree.py"), dotted("gradients/__init__.py")
    ('unisono.gradients.tree', 'unisono.gradients')
    """
    return ".".join(("unisono", *Path(module).with_suffix("").parts)).removesuffix(".__init__")


def own_tests(tests: Path, module: str) -> list[str]:
    """The tests that mirror a module, then those of other modules of its package that name it, but for whole runs."""
    path = Path(module)
    mirror = tests / path.parent / f"test_{path.name}"
    name = re.compile(
        rf"{re.escape(dotted(module))}\b|from {re.escape(dotted(str(path.parent)))} import .*\b{path.stem}\b"
    )
    others = [other for other in sorted(mirror.parent.glob("test_*.py")) if other != mirror and _names(other, name)]
    return [str(test) for test in [mirror, *others] if test.exists()]


def _names(test: Path, name: re.Pattern[str]) -> bool:
    text = test.read_text()
    return bool(name.search(text)) and not re.search(r"^(from|import) (faults|jobs|hosts)\b", text, re.MULTILINE)
