"""Plans are values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.partition.plan import Plan


@given(st.integers(0, 100), st.integers(1, 64), st.integers(1, 64))
def test_an_even_plan_covers_all_and_survives_words(round_: int, microbatches: int, slots: int) -> None:
    plan = Plan.even(round_, microbatches, slots)
    assert [m for slot in range(slots) for m in plan.run(slot)] == list(range(microbatches))
    assert Plan.from_words(plan.to_words()) == plan
    assert plan.successor(stop=True) == Plan(round_ + 1, plan.boundaries, True)


def test_falling_boundaries_are_refused() -> None:
    with pytest.raises(ValueError, match="rise"):
        Plan(0, (0, 3, 2))
