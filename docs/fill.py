"""Put measured tables into choosing-a-framework.md, layouts.md and frameworks.md, between their markers.

python docs/fill.py [COMPATIBILITY.md]

    performance     benchmarks/results/frameworks.md, written by `make bench-frameworks`
    ease            lines of examples/digits*.py
    compatibility   the file named, made by tests/frameworks/matrix.py
    pipeline        benchmarks/results/pipeline.md, written by `make bench-pipeline`
    versions        tests/versions.json, written by `make test-versions`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from unisono.commands.compare import code_lines

HERE = Path(__file__).parent
PAGE = HERE / "choosing-a-framework.md"
LAYOUTS = HERE / "layouts.md"
FRAMEWORKS = HERE / "frameworks.md"
RESULTS = HERE.parent / "benchmarks" / "results"
EXAMPLES = HERE.parent / "examples"
VERSIONS = HERE.parent / "tests" / "versions.json"


def filled(text: str, name: str, table: str) -> str:
    """The text with a table between the markers of a name.

    >>> filled("a <!-- begin x -->old<!-- end x --> b", "x", "new").replace(chr(10), " ")
    'a <!-- begin x --> new <!-- end x --> b'
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"the page must hold the markers {begin} and {end}; it does not.")
    return f"{before}{begin}\n{table.strip()}\n{end}{after}"


def ease() -> str:
    """Lines of code of the same job in each framework."""
    lines = ["| example | lines of code |", "| --- | --- |"]
    for path in sorted(EXAMPLES.glob("digits*.py")):
        lines.append(f"| `examples/{path.name}` | {code_lines(path.read_text())} |")
    return "\n".join(lines)


def versions() -> str:
    """What was run together, and how it went."""
    lines = ["| Python | with | tests | on |", "| --- | --- | --- | --- |"]
    for run in json.loads(VERSIONS.read_text()).values():
        held = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
        without = "".join(f", no {name}" for name in run["without"])
        counts = ", ".join(f"{number} {what}" for what, number in run["counts"].items())
        lines.append(f"| {run['python']} | {held}{without} | {counts} | {run['date']} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Fill what there are results for."""
    text = filled(PAGE.read_text(), "ease", ease())
    if (RESULTS / "frameworks.md").exists():
        text = filled(text, "performance", (RESULTS / "frameworks.md").read_text())
    for path in arguments[:1]:
        text = filled(text, "compatibility", Path(path).read_text())
    PAGE.write_text(text)
    if (RESULTS / "pipeline.md").exists():
        LAYOUTS.write_text(filled(LAYOUTS.read_text(), "pipeline", (RESULTS / "pipeline.md").read_text()))
    FRAMEWORKS.write_text(filled(FRAMEWORKS.read_text(), "versions", versions()))


if __name__ == "__main__":
    main(sys.argv[1:])
