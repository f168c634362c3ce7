"""What a fresh interpreter loads: a person who asks for help waits for no framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

import unisono

FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "flax", "optax", "mxnet", "ray"}
HEAVY = {*FRAMEWORKS, "tensorboardX", "numpy", "rich", "psutil", "cloudpickle", "safetensors"}


def loaded(code: str) -> set[str]:
    """The top-level packages that an interpreter has loaded after some code."""
    told = f"{code}\nimport sys\nprint(*sorted(set(name.partition('.')[0] for name in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("code", [
    "import unisono",
    "import unisono.cli",
    "from unisono.cli import commands\ncommands.main(['--help'], standalone_mode=False)",
    "from unisono.cli import commands\ncommands.main(['train', '--help'], standalone_mode=False)",
    "from unisono.cli import commands\ncommands.main(['--version'], standalone_mode=False)",
], ids=["import", "cli", "help", "train-help", "version"])  # fmt: skip
def test_nothing_heavy_is_loaded_before_it_is_used(code: str) -> None:
    assert not loaded(code) & HEAVY


def test_no_framework_is_loaded_with_all_of_unisono() -> None:
    code = "\n".join(["import unisono", *(f"unisono.{name}" for name in unisono.__all__)])
    assert not loaded(code) & FRAMEWORKS


def test_doctor_loads_no_framework() -> None:
    assert not loaded("import os\nfrom unisono.commands import doctor\ndoctor.rendered(doctor.examine())") & FRAMEWORKS


def test_the_public_names_are_what_they_say() -> None:
    assert {name: getattr(unisono, name).__name__ for name in unisono.__all__ if name[0] != "_"} == {
        name: name for name in unisono.__all__ if name[0] != "_"
    }
    assert set(unisono.__all__) <= set(dir(unisono))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        unisono.nothing  # noqa: B018
