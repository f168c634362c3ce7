"""What people's JAX models do in their forward passes: kept as it is, or refused by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("jax") is None or importlib.util.find_spec("flax") is None:
    pytest.skip("jax is not installed in this environment", allow_module_level=True)

from frameworks.kits import jax as kit  # first: it holds XLA's threads  # isort: skip
from faults import hash_of, run, undisturbed
from unisono.runtime.supervisor.outcome import raise_failure


def frozen() -> Any:
    """Batch normalization that keeps the statistics it has."""
    model = kit.MODELS["wild"]()
    model.norm.eval()
    return model


class Normed(kit.nnx.Module):
    """Keeps a weight normed by writing it back."""

    def __init__(self) -> None:
        self.first = kit.nnx.Linear(kit.FEATURES, kit.CLASSES, rngs=kit.nnx.Rngs(0))

    def __call__(self, inputs: Any) -> Any:
        self.first.kernel[...] = self.first.kernel[...] / 2
        return self.first(inputs)


@pytest.mark.few("0")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_parameter_that_a_call_assigns_is_named(workers: int) -> None:
    outcome, _, _ = run(kit.make(Normed), workers)
    assert outcome.failure is not None
    assert "may not change parameters" in outcome.failure.message
    assert "it has changed 'first.kernel'" in outcome.failure.message
    assert outcome.steps_done == 0


def test_a_module_that_model_left_in_evaluation_mode_stays_there(tmp_path: Path) -> None:
    job = kit.make(frozen)
    expected, _ = undisturbed(job)
    outcome, _, _ = run(kit.make(frozen, evaluation=lambda: kit.Pairs()), 2)
    raise_failure(outcome)
    assert hash_of(outcome) == expected
    saved = outcome.state.saved(outcome.steps_done).arrays
    assert np.array_equal(saved["norm.mean"], np.zeros(500, np.float32))
    assert not np.array_equal(saved["first.bias"], np.zeros(500, np.float32))
