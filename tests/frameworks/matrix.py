"""The compatibility matrix, made from pytest's reports of the contract suite.

python -m pytest tests/frameworks/test_contract.py --junitxml=report.xml
python tests/frameworks/matrix.py report.xml [LABEL=other.xml …] > docs/compatibility.md

Several reports (of several environments) make one table. With a LABEL what ran in that report gets a column of that
name (Keras on another backend, say).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

SUITE = "test_contract"
MARKS = {"passed": "✓", "failed": "✗", "skipped": "–"}


@dataclass(frozen=True)
class Result:
    """One case of the suite: of which framework, which promise, how it ended."""

    framework: str
    promise: str
    outcome: str


def results(report: str, kits: Iterable[str], label: str = "") -> Iterator[Result]:
    """The suite's cases in a JUnit report.

    Args:
        report: its XML.
        kits: names of frameworks, as they stand in test ids.
        label: the column's name instead of the framework's.
    """
    for case in ElementTree.fromstring(report).iter("testcase"):
        name, _, parameters = case.get("name", "").partition("[")
        kit = next((part for part in parameters.rstrip("]").split("-") if part in set(kits)), None)
        if kit is None or SUITE not in case.get("classname", ""):
            continue
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        if not (label and outcome == "skipped"):
            yield Result(label or kit, name.removeprefix("test_").replace("_", " "), outcome)


def cell(outcomes: list[str]) -> str:
    """What a promise's cases say together: a failure counts most, and a skip only if nothing else is known.

    >>> cell(["passed", "skipped", "passed"]), cell(["passed", "failed"]), cell(["skipped"]), cell([])
    ('✓', '✗ 1 of 2', '–', '–')
    """
    ran = [outcome for outcome in outcomes if outcome != "skipped"]
    failed = ran.count("failed")
    if failed:
        return f"{MARKS['failed']} {failed} of {len(ran)}"
    return MARKS["passed"] if ran else MARKS["skipped"]


def matrix(found: Iterable[Result]) -> str:
    """A Markdown table: a row per promise, a column per framework.

    Args:
        found: results of any number of reports.
    """
    held: dict[str, dict[str, list[str]]] = {}
    for result in found:
        held.setdefault(result.promise, {}).setdefault(result.framework, []).append(result.outcome)
    columns = list(dict.fromkeys(framework for row in held.values() for framework in row))
    lines = [f"| promise | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for promise, row in held.items():
        lines.append(f"| {promise} | {' | '.join(cell(row.get(column, [])) for column in columns)} |")
    key = "✓ kept, ✗ broken, – not run. Each row is a test of `tests/frameworks/test_contract.py`."
    return "\n".join([*lines, "", key])


def main(arguments: list[str]) -> None:
    """Print the matrix of the reports named."""
    kits = [path.stem for path in (Path(__file__).parent / "kits").glob("*.py")]
    found: list[Result] = []
    for argument in arguments:
        label, _, path = argument.rpartition("=")
        found += results(Path(path).read_text(), kits, label)
    if not found:
        raise SystemExit(f"matrix.py takes JUnit reports of {SUITE}.py; received {' '.join(arguments) or 'none'}.")
    print(matrix(found))


if __name__ == "__main__":
    main(sys.argv[1:])
