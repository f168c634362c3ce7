"""What is installed, judged by what the metadata ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unisono.machine.packages import Packages, check_packages, gather_packages

ASKED = (
    "numpy<3,>=1.23.5", "tensorboardx<3,>=2.6", "torch<3,>=2.8; extra == 'torch'", "mxnet==1.9.1; extra == 'mxnet'",
    "numpy<1.24,>=1.23.5; extra == 'mxnet'", "ray<3,>=2.40; extra == 'ray'",
)  # fmt: skip
INSTALLED = {"numpy": "2.4.6", "tensorboardx": "2.6.5", "torch": "2.13.0+cpu"}
SOUND = Packages("0.1.0", "3.12.3", ">=3.11", ASKED, INSTALLED)


def found(packages: Packages, name: str) -> tuple[str, str, str]:
    (finding,) = (each for each in check_packages(packages, ["torch", "mxnet"], ["ray"]) if each.name == name)
    return finding.state, finding.found, finding.mend


def test_what_is_in_range_is_named_with_its_version() -> None:
    assert {each.state for each in check_packages(SOUND, ["torch", "mxnet"], ["ray"])} == {"ok"}
    assert found(SOUND, "torch") == ("ok", "torch 2.13.0+cpu", "")
    assert found(SOUND, "mxnet")[1] == "not installed; pip install '.[mxnet]' in Unisono's folder brings it"


@pytest.mark.parametrize(("versions", "name", "state", "text"), [
    ({"numpy": "1.22.0"}, "packages", "wrong", "pip install 'numpy<3,>=1.23.5'"),
    ({"numpy": None}, "packages", "wrong", "numpy"),
    ({"tensorboardx": None}, "packages", "warning", "pip install 'tensorboardx<3,>=2.6'"),
    ({"torch": "2.7.1"}, "torch", "warning", "torch <3,>=2.8"),
    ({"torch": "2.14.0.dev2026"}, "torch", "ok", ""),
    ({"mxnet": "1.9.1"}, "mxnet", "warning", "numpy <1.24,>=1.23.5"),
    ({"ray": "2.30"}, "ray", "warning", "ray <3,>=2.40"),
    ({"torch": None}, "frameworks", "wrong", "pip install '.[torch]'"),
])  # fmt: skip
def test_what_is_missing_or_out_of_range(versions: dict[str, str | None], name: str, state: str, text: str) -> None:
    there = {key: version for key, version in {**INSTALLED, **versions}.items() if version is not None}
    got = found(replace(SOUND, versions=there), name)
    assert (got[0], text in got[2]) == (state, True), got


def test_another_python_is_wrong() -> None:
    assert found(replace(SOUND, python="3.10.2"), "Unisono")[0] == "wrong"


def test_used_from_a_folder() -> None:
    (finding,) = check_packages(replace(SOUND, unisono=None), ["torch"])
    assert (finding.state, "pip install" in finding.mend) == ("warning", True)


def test_the_environment_of_the_tests_is_in_range() -> None:
    assert not [each for each in check_packages(gather_packages(), ["torch", "mxnet"]) if each.state == "wrong"]
