"""A fixed quarter of the tests at the lowest and the newest versions of what Unisono stands on; see `--help`.

Each environment is made once, under .venv-versions/, and kept: `rm -r .venv-versions` makes them anew. What was run
is recorded in tests/versions.json, and docs/fill.py puts that into docs/frameworks.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "tests" / "versions.json"
VENVS = ROOT / ".venv-versions"

ANYWHERE = (
    "tests/frameworks/test_contract.py", "tests/frameworks/test_registry.py", "tests/test_docstrings.py",
    "tests/partition", "tests/gradients", "tests/memory",
    "--deselect", "tests/test_docstrings.py::test_the_examples_of[tools.install]",  # knows one pip
)  # fmt: skip
"""Every promise of the contract, the examples in docstrings, and the pure parts, which need NumPy and Python alone."""

TORCH = (
    *ANYWHERE, "tests/frameworks/test_pytorch_chunks.py", "tests/frameworks/test_pytorch_stages.py",
    "tests/runtime/test_same_bits.py", "tests/checkpoint", "tests/runs/test_jobfile.py",
)  # fmt: skip
JAX = (*ANYWHERE, "tests/frameworks/test_jax.py", "tests/frameworks/test_jax_stages.py")
KERAS = (*ANYWHERE, "tests/frameworks/test_keras.py", "tests/frameworks/test_keras_stages.py")
"""A framework's own: optimizers, same bits and checkpoints, and stages, which know most of its inner parts."""

TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "scikit-learn")


@dataclass(frozen=True)
class Environment:
    """Versions that people may have together.

    Attributes:
        name: of its folder.
        python: "3.12" …
        packages: what pip installs besides Unisono's own requirements, with versions.
        tests: what is run.
        without: requirements of Unisono's that are left out.
        large: gigabytes where PyPI's build is all that there is: only made if it is named.
    """

    name: str
    python: str
    packages: tuple[str, ...]
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()
    large: bool = False


ENVIRONMENTS = (
    Environment("torch-2.8", "3.11", ("torch==2.8.0", "numpy==1.26.4"), TORCH, large=True),
    Environment("torch-2.11", "3.12", ("torch==2.11.0",), TORCH, ("tensorboardX",), large=True),
    Environment("torch-2.13", "3.11", ("torch==2.13.0", "numpy==1.23.5"), TORCH),
    Environment("torch-2.14", "3.11", ("torch==2.14.1",), TORCH, large=True),
    Environment("jax-0.7", "3.11", ("jax==0.7.0", "jaxlib==0.7.0", "flax==0.11.0", "optax==0.2.5", "numpy<2"), JAX),
    Environment("jax-0.11", "3.12", ("jax==0.11.2", "jaxlib==0.11.2", "flax", "optax"), JAX, ("tensorboardX",)),
    Environment("jax-0.12", "3.13", ("jax==0.12.0.1", "jaxlib==0.12.0.1", "flax", "optax"), JAX),
    Environment("keras-3.10", "3.11", ("keras==3.10.0", "tensorflow-cpu==2.18.0"), KERAS),
    Environment("keras-3.15", "3.13", ("keras==3.15.1", "tensorflow-cpu==2.21.0"), KERAS),
)  # fmt: skip
RECORDED = ("numpy", "torch", "jax", "flax", "optax", "keras", "tensorflow-cpu", "tensorflow")


def interpreter(version: str) -> str | None:
    """A Python of this version: on the PATH, or among pyenv's."""
    among = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    found = [shutil.which(f"python{version}"), *map(str, among)]
    works = (path for path in found if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0)
    return next(works, None)


def requirements(without: Sequence[str]) -> list[str]:
    """Unisono's own, without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [text for text in project["dependencies"] if re.split(r"[<>=~! ]", text)[0] not in without]


def made(environment: Environment, python: str) -> Path:
    """The environment's folder; made if it is not there."""
    folder = VENVS / environment.name
    if not (folder / "installed").exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
        wanted = [*environment.packages, *requirements(environment.without), *TOOLS]
        index = ["--extra-index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *index, *wanted], check=True)
        (folder / "installed").touch()
    return folder


def installed(folder: Path) -> dict[str, str]:
    """The versions of what is recorded."""
    listed = subprocess.run(
        [folder / "bin/python", "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    ).stdout
    versions = {entry["name"].lower(): entry["version"] for entry in json.loads(listed)}
    return {name: versions[name] for name in RECORDED if name in versions}


def run(environment: Environment, python: str) -> dict[str, Any]:
    """Run the tests in the environment.

    Returns:
        What is recorded of it.
    """
    folder = made(environment, python)
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    command = [str(folder / "bin/python"), "-m", "pytest", "-n", "auto", "--dist", "worksteal", f"--junitxml={report}"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([*command, *environment.tests], cwd=ROOT, env=environ)
    return {
        "python": environment.python, "packages": installed(folder), "without": list(environment.without),
        "counts": counts(report.read_text()), "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def counts(report: str) -> dict[str, int]:
    """How many tests passed, failed and were skipped.

    Args:
        report: pytest's, in JUnit's XML.

    >>> counts('<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1"/></testsuites>')
    {'passed': 2, 'failed': 2, 'skipped': 1}
    """
    suite = next(ElementTree.fromstring(report).iter("testsuite"))
    tests, failures, errors, skipped = (int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped"))
    found = {"passed": tests - failures - errors - skipped, "failed": failures + errors, "skipped": skipped}
    return {what: number for what, number in found.items() if number}


def write(found: Mapping[str, Any]) -> None:
    """Add to the record."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    record.update(found)
    RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=1) + "\n")


def main(arguments: Sequence[str]) -> int:
    """Run the environments that are named, or all but the large ones; 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(environment.name for environment in ENVIRONMENTS)}")
    names = parser.parse_args(arguments).names
    unknown = set(names) - {environment.name for environment in ENVIRONMENTS}
    if unknown:
        parser.error(f"no environment is called {', '.join(sorted(unknown))}")
    chosen = [e for e in ENVIRONMENTS if (e.name in names if names else not e.large)]
    failed = []
    for environment in chosen:
        print(f"{environment.name}: Python {environment.python}, {' '.join(environment.packages)}", flush=True)
        python = interpreter(environment.python)
        if python is None:
            print(f"not run: there is no Python {environment.python} here", flush=True)
            continue
        result = run(environment, python)
        write({environment.name: result})
        failed += [environment.name] if "failed" in result["counts"] else []
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
