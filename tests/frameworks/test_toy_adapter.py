"""An adapter of a hundred lines, brought by another distribution: found by its entry point, it trains a job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from command_line import unisono
from unisono.errors import UsageError
from unisono.frameworks import registry

TOY = Path(__file__).parent / "toy"
JOB = TOY / "toy_job.py"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy adapter beside Unisono, as an installer leaves it."""
    about = tmp_path / "site" / "toy_adapter-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-adapter\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{registry.GROUP}]\ntoy = toy_adapter:FAMILY\n")
    paths = [str(TOY), str(about.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def parameters(*arguments: object) -> str:
    """What a run of the toy job says of its parameters."""
    return unisono("train", JOB, *arguments).splitlines()[-1]


def test_an_adapter_of_another_distribution_trains_and_resumes_with_the_same_bits(tmp_path: Path) -> None:
    assert sum(len(path.read_text().splitlines()) for path in (TOY / "toy_adapter").glob("*.py")) <= 100
    whole = parameters("epochs=4", "--workers", 1, "--out", tmp_path / "whole")
    assert whole.startswith("parameters ")
    parameters("--workers", 2, "--out", tmp_path / "half")
    assert parameters("epochs=4", "--workers", 3, "--resume", tmp_path / "half") == whole


def test_it_is_not_cut_into_stages() -> None:
    assert "toy_adapter.model cuts none. Train with pipeline=1." in unisono(
        "train", JOB, "--workers", 2, "--layout", "pipeline=2", status=2
    )


def test_without_entry_points_a_new_installation_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: ())
    with pytest.raises(UsageError, match=r"adapters are found by the entry points .*Install it anew"):
        registry.families.__wrapped__()
