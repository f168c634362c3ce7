"""The examples in docstrings run, one module at a time: the package's, and those of the loop that tests hold it to."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import unisono
from command_line import EXAMPLES, ROOT
from unisono.frameworks.registry import families

NAMES = sorted(
    module.name
    for module in pkgutil.walk_packages(unisono.__path__, "unisono.", onerror=lambda name: None)
    if not module.name.endswith("__main__")
)
NAMES += [module.name for module in pkgutil.iter_modules([str(EXAMPLES / "corpora")], "corpora.")]
NAMES += [module.name for module in pkgutil.iter_modules([str(ROOT / "tools")], "tools.")]
NAMES += ["plain_loop"]


def test_every_package_is_walked() -> None:
    walked = {name.split(".")[2] for name in NAMES if name.startswith("unisono.frameworks.") and name.count(".") > 2}
    assert walked == {"protocol", *(family.package for family in families())}


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(("unisono", "corpora")):
            raise
        pytest.skip(f"{error.name} is not installed")
    failed, _ = doctest.testmod(module)
    assert failed == 0
