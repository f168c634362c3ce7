"""Writes requirements/*.lock: what pip chooses for pyproject's dependency groups, whatever is installed (`make lock`).

python tools/lock.py [INDEX]

With INDEX (https://download.pytorch.org/whl/cpu, say) torch's builds are sought there too; without it a CPU build has
to lie where pip looks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements"


def members(groups: dict[str, list[Any]], name: str) -> Iterator[str]:
    """The requirements of a dependency group and of those that it includes.

    >>> list(members({"a": ["x>=1", {"include-group": "b"}], "b": ["y"]}, "a"))
    ['x>=1', 'y']
    """
    for entry in groups[name]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from members(groups, entry["include-group"])


def resolved(wanted: Iterable[str], *options: str) -> dict[str, str]:
    """The version of each package that pip would install for these requirements into an empty environment.

    Args:
        wanted: requirements; `unisono[…]` stands for this folder.
        options: more of pip's arguments.
    """
    here = [str(ROOT) + one.removeprefix("unisono") if one.startswith("unisono[") else one for one in wanted]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    report = subprocess.run([*command, *options, *here], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = [package["metadata"] for package in json.loads(report)["install"]]
    return {one["name"]: one["version"].partition("+")[0] for one in found if one["name"] != "unisono"}


def write(lock: Path, versions: dict[str, str]) -> None:
    """One pin a line, in alphabetical order."""
    lock.write_text("".join(f"{name}=={versions[name]}\n" for name in sorted(versions, key=str.lower)))


def main(indexes: list[str]) -> None:
    """Renew the three lock files; the demo's pins are the tests'."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    options = [option for index in indexes for option in ("--extra-index-url", index)]
    test = REQUIREMENTS / "test.lock"
    write(test, resolved(members(groups, "test"), *options))
    write(REQUIREMENTS / "demo.lock", resolved(members(groups, "demo"), "--constraint", str(test), *options))
    write(REQUIREMENTS / "mxnet.lock", resolved(members(groups, "mxnet")))


if __name__ == "__main__":
    main(sys.argv[1:])
