"""Installs a lock file's packages, and this project as it lies here, into the environment whose Python runs this.

.venv/bin/python tools/install.py requirements/demo.lock

torch is taken from the disk where pip's `find-links` names a folder with the pinned version; else PyTorch's CPU build
is downloaded, for pip's usual index would give the build for GPUs, of gigabytes. The variable TORCH_INDEX names another
index. No bytecode is made: Python writes it when a module is first imported, and most of torch's never are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


KEPT = {"jax", "jaxlib", "numpy", "torch"}
"""What is not replaced when another version than the lock's is installed and in range."""


def pip(*arguments: str, quietly: bool = False) -> bool:
    """Whether `pip install` went well."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    return subprocess.run([*command, *arguments], capture_output=quietly).returncode == 0


def declared() -> list[Requirement]:
    """The package's requirements, those of its extras among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines]


def stays(name: str, version: str, installed: str, ranges: Iterable[Requirement]) -> bool:
    """Whether what is installed serves as well as the locked version: it is in every range that the locked one is in.

    >>> stays("torch", "2.13.0", "2.14.1+cu130", [Requirement("torch>=2.8,<2.15")])
    True
    >>> stays("numpy", "1.23.5", "2.4.6", [Requirement("numpy<3"), Requirement("numpy<1.24")])
    False
    """
    meant = [one.specifier for one in ranges if one.name == name and one.specifier.contains(version)]
    return all(each.contains(installed) for each in meant)


def missing(pins: Iterable[str], found: dict[str, str], ranges: list[Requirement]) -> list[str]:
    """The pins that are to be installed.

    Args:
        pins: NAME==VERSION.
        found: the version of each installed package.
        ranges: the package's requirements.
    """
    wanted = []
    for pin in pins:
        name, _, version = pin.partition("==")
        if name not in KEPT or name not in found or not stays(name, version, found[name], ranges):
            wanted.append(pin)
        elif found[name].partition("+")[0] != version:
            print(f"{name} {found[name]} is installed and stays; the lock has {version}", flush=True)
    return wanted


def install_torch(pin: str) -> None:
    """From TORCH_INDEX if it is set, else from the disk, else the CPU build; with the libraries that a build takes."""
    index = os.environ.get("TORCH_INDEX")
    if not index and pip("--no-index", pin, quietly=True):
        return
    print(f"{pin} comes from {index or CPU_INDEX}", flush=True)
    if not pip("--index-url", index or CPU_INDEX, pin):
        raise SystemExit(f"{pin} could not be installed. `make TORCH_INDEX=…` names another index: a mirror, say.")


def main(lock: str) -> None:
    """Install what is missing; torch last, for its build decides which libraries it takes beside the lock's."""
    found = {one.name: one.version for one in metadata.distributions()}
    pins = missing(Path(lock).read_text().split(), found, declared())
    torch = [pin for pin in pins if pin.startswith("torch==")]
    others = [pin for pin in pins if pin not in torch]
    if others and not pip("--no-deps", *others):
        raise SystemExit(f"{lock} could not be installed; pip says why above.")
    for pin in torch:
        install_torch(pin)
    if not pip("--no-deps", "--editable", str(ROOT)):
        raise SystemExit("this project could not be installed; pip says why above.")


if __name__ == "__main__":
    main(*sys.argv[1:])
