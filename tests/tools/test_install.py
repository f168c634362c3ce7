"""What `make` installs: nothing over what serves, and torch from the nearest place that has its CPU build."""

from __future__ import annotations

import pytest
from pip._vendor.packaging.requirements import Requirement

from tools import install

PINS = ["numpy==2.4.6", "torch==2.13.0", "rich==15.0.0"]


@pytest.mark.parametrize(("installed", "wanted"), [
    ({}, PINS),
    ({"torch": "2.13.0+cpu", "numpy": "2.4.6"}, ["rich==15.0.0"]),
    ({"torch": "2.14.1+cu130"}, ["numpy==2.4.6", "rich==15.0.0"]),
    ({"torch": "2.7.0"}, PINS),
    ({"rich": "14.0.0"}, PINS),
])  # fmt: skip
def test_what_is_installed_and_in_range_stays(installed: dict[str, str], wanted: list[str]) -> None:
    ranges = [Requirement("torch>=2.8,<2.15"), Requirement("numpy>=1.23.5,<3"), Requirement("numpy<1.24")]
    assert install.missing(PINS, installed, ranges) == wanted


def test_the_package_s_own_ranges_are_asked() -> None:
    assert {"numpy", "torch", "jax", "jaxlib"} <= {requirement.name for requirement in install.declared()}


@pytest.mark.parametrize(("index", "on_disk", "asked"), [
    ("", True, ["--no-index"]),
    ("", False, ["--no-index", f"--index-url {install.CPU_INDEX}"]),
    ("https://mirror/cu130", True, ["--index-url https://mirror/cu130"]),
])  # fmt: skip
def test_where_torch_comes_from(
    index: str, on_disk: bool, asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []

    def pip(*arguments: str, quietly: bool = False) -> bool:
        calls.append(" ".join(arguments))
        return on_disk or "--index-url" in arguments

    monkeypatch.setattr(install, "pip", pip)
    monkeypatch.setenv("TORCH_INDEX", index)
    install.install_torch("torch==2.13.0")
    assert calls == [f"{options} torch==2.13.0" for options in asked]
    assert (index or install.CPU_INDEX in capsys.readouterr().out) or on_disk


def test_a_torch_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "pip", lambda *arguments, quietly=False: False)
    with pytest.raises(SystemExit, match="`make TORCH_INDEX=…` names another"):
        install.install_torch("torch==2.13.0")
