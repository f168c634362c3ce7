"""No test depends on time: it waits for things, by tests/waiting.py, whose limits follow the machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
EXCEPTIONS = {
    "waiting.py": {"sleep", "time.monotonic"},  # where all others wait
    "hosts/delay.py": {"time.monotonic"},  # a cable that takes its time
    "hosts/test_group.py": {"time.time"},  # a clock names the run folder; a host may be slower than its timeout
    "test_no_time.py": {"sleep", "timeout", "literal", "seconds"},  # what is refused, as text
}
"""File → what it may use, and why."""

WAITS = dict.fromkeys(("join", "wait", "settimeout", "poll", "timeout"), (1,))
WAITS |= {"create_connection": (2,), "select": (1, 4)}
"""Call → how many arguments it has where the last one is its limit."""

TIMEOUTS = {"timeout", "deadline", "timeout_seconds"}
CLOCKS = {"monotonic", "perf_counter", "process_time", "time", "monotonic_ns", "perf_counter_ns", "time_ns"}


def refused(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of all that depends on time, also in programs that are text."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Call):
            yield from ((line, what) for what in _in_call(node))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
            if node.attr in CLOCKS:
                yield line, f"time.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from ((line, alias.name if alias.name == "sleep" else f"time.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Compare) and _bounds_seconds(node):
            yield line, "seconds"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from ((line, what) for what in _in_text(node.value))


def _in_call(call: ast.Call) -> Iterator[str]:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "sleep":
        yield "sleep"
    for keyword in call.keywords:
        if keyword.arg in TIMEOUTS and _is_number(keyword.value):
            yield "timeout"
    if len(call.args) in WAITS.get(name, ()) and _is_number(call.args[-1]):
        yield "literal"


def _is_number(node: ast.expr) -> bool:
    """Whether a value above zero stands there as it is, and not as what the machine allows."""
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    return isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and node.value > 0


def _bounds_seconds(node: ast.Compare) -> bool:
    ordered = any(isinstance(operator, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) for operator in node.ops)
    sides = [node.left, *node.comparators]
    return ordered and any(map(_is_number, sides)) and any("seconds" in ast.unparse(side) for side in sides)


def _in_text(text: str) -> Iterator[str]:
    """What a program does that is text: Python's, or a shell's."""
    if re.search(r"\bsleep\s*\(|\bsleep \d|^sleep$", text):
        yield "sleep"
    if "\n" in text and "import " in text:
        try:
            program = ast.parse(text)
        except SyntaxError:
            return
        yield from (what for _, what in refused(program))


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_it_waits_for_things_and_not_for_time(path: Path) -> None:
    allowed = EXCEPTIONS.get(str(path.relative_to(TESTS)), set())
    found = [(line, what) for line, what in refused(ast.parse(path.read_text())) if what not in allowed]
    assert not found, f"{path.name} depends on time; wait with `until` and `limit` of tests/waiting.py: {found}"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("time.sleep(delay)", "sleep"),
        ("from time import sleep", "sleep"),
        ("run(['sh', '-c', 'sleep 5'])", "sleep"),
        ("run(['sleep', '5'])", "sleep"),
        ("run([python, '-c', 'import time\\ntime.sleep(1)\\n'])", "sleep"),
        ("process.communicate(timeout=30)", "timeout"),
        ("box.get(timeout=2 * 10)", "timeout"),
        ("settings(deadline=200)", "timeout"),
        ("thread.join(5)", "literal"),
        ("process.wait(60.0)", "literal"),
        ("pytest.mark.timeout(300)", "literal"),
        ("select.select([file], [], [], 60)", "literal"),
        ("end = time.monotonic() + 60", "time.monotonic"),
        ("from time import perf_counter", "time.perf_counter"),
        ("assert record['step_seconds'] < 0.06", "seconds"),
    ],
)
def test_what_is_refused(text: str, what: str) -> None:
    assert what in {found for _, found in refused(ast.parse(text))}


@pytest.mark.parametrize(
    "text",
    [
        "process.communicate(timeout=limit())",
        "settings(deadline=None)",
        "', '.join(names)",
        "words.wait(0, turn)",
        "select.select([file], [], [], 0)",
        "assert 0 < manifest['first_step_seconds'] <= manifest['seconds']",
        "until(lambda: folder.exists(), 'the folder is there')",
    ],
)
def test_what_is_not(text: str) -> None:
    assert not list(refused(ast.parse(text)))
