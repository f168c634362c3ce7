"""The shared state between two generations of hosts, and what is restored into it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from products import DESCRIPTION, shape
from unisono.errors import UsageError
from unisono.frameworks.protocol import Source
from unisono.memory.segment import Segment
from unisono.runtime.protocol import Plan
from unisono.runtime.state import Control, HostState, host_layout


def made() -> HostState:
    layout = host_layout(DESCRIPTION, shape(1, 2, 4))
    return HostState(layout, Segment.create(layout.segment))


def test_what_lost_hosts_have_used_counts_no_longer() -> None:
    state = made()
    state.segment["used"][-1] = 1
    state.control.publish(Control.EXCHANGED, 7)
    state.begin(5)
    assert not state.segment["used"].any()
    assert state.control.get(Control.EXCHANGED) == 5


def test_a_withdrawn_plan_is_no_plan() -> None:
    state = made()
    plan = Plan(5, (0, 2, 4), (0, 1), hosts=(0, 4, 8))
    state.stamp(plan)
    assert plan in state.plans()
    state.withdraw()
    assert state.plans() == [None, None]


class Recorder:
    """An area of plans that remembers what is written where, in order."""

    def __init__(self, area: memoryview) -> None:
        self.area = area
        self.writes: list[tuple[int, int]] = []

    def __setitem__(self, index: int, word: int) -> None:
        self.area[index] = word
        self.writes.append((index, word))


def test_a_plan_has_no_number_while_it_is_written() -> None:
    state = made()
    state.stamp(Plan(3, (0, 4), (0,)))
    area = state._plans[1] = Recorder(state._plans[1])  # type: ignore[call-overload]
    plan = Plan(5, (0, 2, 4), (0, 1))
    state.stamp(plan)
    assert area.writes[0] == (0, 0), "whoever reads now sees that there is none"
    assert area.writes[-1] == (0, plan.round + 1)
    assert [index for index, _ in area.writes[1:-1]] == list(range(1, len(plan.to_words())))


def test_saved_values_of_another_type_or_shape_are_named() -> None:
    description = replace(DESCRIPTION, saved=(Source("w", "parameter", 0),))
    layout = host_layout(description, shape(1, 2, 4))
    state = HostState(layout, Segment.create(layout.segment))
    saved = state.saved(0).arrays
    name, array = "w", saved["w"]
    state.restore(saved, {}, 0)
    for other in (array.astype(np.float64), array.astype(np.int32), np.zeros((*array.shape, 1), array.dtype)):
        with pytest.raises(UsageError, match=rf"'{name}' is {array.dtype} .* here and {other.dtype} .* there"):
            state.restore({**saved, name: other}, {}, 0)
    with pytest.raises(UsageError, match="nothing there"):
        state.restore({key: value for key, value in saved.items() if key != name}, {}, 0)


@pytest.mark.parametrize("text", [
    b"[" * 10**5, b"\xff", b"{}", b"[1]", b"[[1], {}]", b'[["missing"], {}]', b'[[], []]', b"[[], {}, 3]",
])  # fmt: skip
def test_an_optimizers_text_that_is_none_is_named(text: bytes) -> None:
    state = made()
    state.trees = {0: SimpleNamespace(write=None)}  # type: ignore[dict-item]
    with pytest.raises(UsageError, match=r"saved tensors must fit .*'optimizer\.0' does not: .*Use the job"):
        state.restore({}, {"optimizer.0": np.frombuffer(text, np.uint8)}, 0)
