"""The lock files agree with each other and with what the package says that it needs."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from command_line import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
BUILDS = {"tensorflow": "tensorflow-cpu"}
"""Packages of which `make` takes another build, with the same version."""


def normal(name: str) -> str:
    """A name as indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(name: str) -> dict[str, str]:
    """Versions by package of requirements/NAME.lock."""
    lines = (ROOT / "requirements" / f"{name}.lock").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), name
    return {normal(line.partition("==")[0]): line.partition("==")[2] for line in lines}


def test_the_tests_run_on_the_demos_versions() -> None:
    assert pins("demo").items() <= pins("test").items()


@pytest.mark.parametrize(("lock", "extras"), [
    ("demo", ["torch"]),
    ("test", [extra for extra in EXTRAS if extra != "mxnet"]),
    ("mxnet", ["mxnet"]),
])  # fmt: skip
def test_whatever_the_package_needs_is_locked_in_range(lock: str, extras: list[str]) -> None:
    locked = pins(lock)
    for line in [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]:
        wanted = Requirement(line)
        version = locked[normal(BUILDS.get(wanted.name, wanted.name))]
        assert wanted.specifier.contains(version), f"{line}, locked: {version}; run `make lock`"


def test_the_demo_takes_one_framework() -> None:
    assert len(pins("demo")) <= 30
    assert not {"keras", "jax", "ray", "pytest", "mypy"} & set(pins("demo"))
