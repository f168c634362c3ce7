"""The versions that were run lie in the package's ranges, and the docs tell of them."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from typing import Any

from packaging.requirements import Requirement

from command_line import ROOT

RECORD = json.loads((ROOT / "tests" / "versions.json").read_text())


def loaded(path: str) -> Any:
    """A script of the project as a module."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), ROOT / f"{path}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_was_run_passed_and_lies_in_the_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "mxnet" for line in lines]
    ranges = {wanted.name: wanted.specifier for wanted in map(Requirement, [*project["dependencies"], *extras])}
    ranges["tensorflow-cpu"] = ranges["tensorflow"]  # another build of it
    for name, run in RECORD.items():
        assert run["counts"].get("passed"), name
        assert "failed" not in run["counts"], name
        for package, version in run["packages"].items():
            assert ranges[package].contains(version), (name, package, version)


def test_the_docs_tell_what_was_run() -> None:
    fill = loaded("docs/fill")
    text = (ROOT / "docs" / "frameworks.md").read_text()
    assert fill.filled(text, "versions", fill.versions()) == text, "run docs/fill.py"
