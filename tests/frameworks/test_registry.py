"""Which framework a job needs: guessed beside its model function, seen in its model, asked for by its extra."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from dataclasses import replace
from functools import partial

import pytest

from faults import hash_of, run, undisturbed
from frameworks import hidden
from unisono.errors import UsageError
from unisono.frameworks.family import Family
from unisono.frameworks.registry import families, framework, named_beside


@pytest.mark.parametrize("family", families(), ids=lambda family: family.package)
def test_a_missing_framework_names_its_extra(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in family.roots:
        monkeypatch.setitem(sys.modules, root, None)
    for name in [name for name in sys.modules if name.startswith(f"unisono.frameworks.{family.package}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UsageError, match=re.escape(f"pip install '.[{family.extra}]'")):
        framework(family.package)


@pytest.mark.few("jax")
@pytest.mark.parametrize("name", ["keras", "jax"])
def test_a_framework_that_only_making_the_model_shows_is_found_out(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed in this environment")
    kit = importlib.import_module(f"frameworks.kits.{name}")
    assert [family.package for family in named_beside(kit.MODELS["mlp"])] == [name]
    job = kit.make(steps=2)
    unseen = replace(job, model=partial(hidden.mlp_of, name))
    assert named_beside(unseen.model) == ()
    outcome, _, _ = run(unseen, 2)
    assert outcome.failure is None, outcome.failure
    assert hash_of(outcome) == undisturbed(job)[0]


@pytest.mark.few("keras")
@pytest.mark.parametrize("name", ["keras", "jax", "mxnet"])
def test_frameworks_without_devices_are_refused_by_name(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed in this environment")
    kit = importlib.import_module(f"frameworks.kits.{name}")
    outcome, _, _ = run(kit.make(steps=2), 1, device="cpu")
    assert outcome.failure
    assert outcome.failure.usage
    assert f"received device='cpu', and that of {name} has none. Train without `--device`" in outcome.failure.message
