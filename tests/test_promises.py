"""CONTRIBUTING's table: each promise stands where it says, has a test that runs, and no section goes without."""

from __future__ import annotations

import ast
import re
import tomllib
from dataclasses import dataclass
from functools import cache

from documents import DOCUMENTS, ROOT, plain, sections

NO_PROMISE = {
    "README.md": {"Beside PyTorch DDP"},
    "docs/architecture.md": {
        "One parallel call of a script",
        "Words",
        "What a line in a folder may touch",
        "One training step",
        "Where things are decided",
    },
    "docs/choosing-a-framework.md": {"Performance", "Community"},
    "docs/hosts.md": {"Beside DDP"},
    "docs/reliability.md": {"Measured"},
    "docs/scripts.md": {"Speed"},
    "docs/clusters/ray.md": {"Install", "Start a cluster"},
    "examples/README.md": {"Results"},
}
"""Sections of figures that `make bench` gives, of facts about others, of tours through the code."""

OPTIONS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
LEFT_OUT = set(re.findall(r"not (\w+)", OPTIONS["addopts"]))
"""Marks of tests that `make test` leaves out."""


@dataclass(frozen=True)
class Promise:
    """A row of the table.

    Args:
        document, section: where the promise stands.
        text: its own words.
        test: file::name within tests/.
        command: which command runs the test.
    """

    document: str
    section: str
    text: str
    test: str
    command: str


def promises() -> list[Promise]:
    """The rows of CONTRIBUTING's tables, each under the heading of its document."""
    found, document = [], ""
    for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines():
        if heading := re.fullmatch(r"### (\S+\.md)", line):
            document = heading[1]
        elif row := re.fullmatch(r"\| (.+) \| (.+) \| `(\S+::\w+)`(?: \((hosts)\))? \|", line):
            section, text, test, command = row.groups()
            found.append(Promise(document, section, text, test, command or "test"))
    return found


def marks(node: ast.AST) -> set[str]:
    """All X of pytest.mark.X within."""
    named = (each for each in ast.walk(node) if isinstance(each, ast.Attribute))
    return {each.attr for each in named if ast.unparse(each.value) == "pytest.mark"} - {"parametrize"}


parsed = cache(ast.parse)


def marks_of(source: str, name: str) -> set[str] | None:
    """The marks that all cases of a test have; None where there is no such test."""
    tree = parsed(source)
    assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    for test in tree.body:
        if isinstance(test, ast.FunctionDef) and test.name == name:
            found = marks(assigned["pytestmark"]) if "pytestmark" in assigned else set()
            for decorator in (assigned.get(ast.unparse(each), each) for each in test.decorator_list):
                cases = [each for each in getattr(decorator, "args", [])[1:] if isinstance(each, ast.List)]
                found |= set.intersection(*map(marks, cases[0].elts)) if cases else marks(decorator)
            return found
    return None


SOURCE = """
import pytest
rarely = pytest.mark.parametrize("n", [pytest.param(2, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_partly(n): ...
@rarely
def test_never(n): ...
@pytest.mark.parametrize("n", NAMES)
@pytest.mark.hosts
def test_elsewhere(n): ...
"""


def test_marks_are_read() -> None:
    found = [marks_of(SOURCE, f"test_{name}") for name in ("partly", "never", "elsewhere", "nowhere")]
    assert found == [set(), {"thorough"}, {"hosts"}, None]
    assert marks_of(f"{SOURCE}pytestmark = [pytest.mark.hosts]", "test_partly") == {"hosts"}


def test_a_promise_stands_where_the_table_says() -> None:
    assert len(promises()) > 100, "the table is read"
    wrong = [row for row in promises() if plain(row.text) not in sections(row.document).get(row.section, "")]
    assert not wrong


def test_a_promise_has_a_test_that_is_run() -> None:
    wrong = []
    for row in promises():
        file, name = row.test.split("::")
        path = ROOT / "tests" / file
        found = marks_of(path.read_text(), name) if path.exists() else None
        if found is None or found & LEFT_OUT != ({"hosts"} if row.command == "hosts" else set()):
            wrong.append((row.test, found))
    assert not wrong


def test_no_section_goes_without_a_test() -> None:
    kept = {(row.document, row.section) for row in promises()}
    owed = {(document, name) for document in DOCUMENTS for name in sections(document)}
    nothing = {(document, name) for document, names in NO_PROMISE.items() for name in names}
    assert owed - nothing == kept
    assert nothing < owed
