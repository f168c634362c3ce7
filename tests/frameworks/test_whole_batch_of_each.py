"""One batch at once beside its microbatches, in every framework."""

from __future__ import annotations

from typing import Any

import pytest

from unisono.commands.verify.whole_batch import compared


@pytest.mark.parametrize(("model", "loss"), [("mlp", None), ("mlp", "weighted_loss"), ("cnn", None)])
def test_the_plain_gradient_is_that_of_the_microbatches(kit: Any, model: str, loss: str | None) -> None:
    batch = compared(kit.make(model, **({"loss": getattr(kit, loss)} if loss else {})))
    assert batch is not None
    assert batch.finding == "mean"
    assert batch.distance is not None
    assert batch.distance < 1e-5


def test_a_model_that_draws_and_normalises_is_compared_in_evaluation(kit: Any) -> None:
    batch = compared(kit.make("wild"))
    assert batch is not None
    assert (batch.finding, batch.distance) == ("mean", None)
    assert len(batch.buffers) == 2
