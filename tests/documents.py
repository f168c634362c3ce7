"""The documentation as tests read it: its files, their sections and their blocks of code."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "examples/README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]


def plain(text: str) -> str:
    """A text whose lines may end anywhere."""
    return " ".join(text.split())


@cache
def sections(document: str) -> dict[str, str]:
    """The text under the title of a document, and under each heading of second rank with all of lower ones."""
    found, name, fenced = dict[str, list[str]](), "", False
    for line in (ROOT / document).read_text().splitlines():
        fenced ^= line.startswith("```")
        if (heading := re.fullmatch(r"##? (.+)", line)) and not fenced:
            name = heading[1]
        else:
            found.setdefault(name, []).append(line)
    return {name: plain(" ".join(lines)) for name, lines in found.items() if any(lines)}


FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def fences(document: str) -> list[tuple[str, str]]:
    """The language and the text of each block of code between fences."""
    return FENCE.findall((ROOT / document).read_text())


def blocks(document: str) -> Iterator[tuple[str, str]]:
    """The language and the text of each block of code: between fences, or indented by four."""
    yield from fences(document)
    text = FENCE.sub("", (ROOT / document).read_text())
    for found in re.finditer(r"(?:^ {4}.*\n|^\n(?= {4}))+", text, re.M):
        lines = textwrap.dedent(found[0])
        yield "python" if lines.lstrip().startswith("import ") else "", lines
