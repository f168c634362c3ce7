"""The shared state between two generations of hosts, and what is restored into it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import unisono.runtime.state.host_state as state_module
from products import DESCRIPTION, shape
from unisono.errors import UsageError
from unisono.frameworks.protocol import Source
from unisono.memory.segment import Segment
from unisono.runtime.rules.plan import Plan
from unisono.runtime.state.host_state import Control, HostState, host_layout


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
    """A table of shared memory that remembers what is read and written where, and fences, in order."""

    def __init__(self, area: memoryview, monkeypatch: pytest.MonkeyPatch) -> None:
        self.area = area
        self.seen: list[object] = []
        monkeypatch.setattr(state_module, "fence", lambda: self.seen.append("fence"))

    def __setitem__(self, index: int, word: int) -> None:
        self.area[index] = word
        self.seen.append((index, word))

    def __getitem__(self, index: int) -> int:
        self.seen.append(index)
        return self.area[index]

    def tolist(self) -> list[int]:
        self.seen.append("all")
        return self.area.tolist()


def test_a_plan_has_no_number_while_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    state = made()
    state.stamp(Plan(3, (0, 4), (0,)))
    area = state._plans[1] = Recorder(state._plans[1], monkeypatch)  # type: ignore[call-overload]
    plan = Plan(5, (0, 2, 4), (0, 1))
    state.stamp(plan)
    before, *content, after, number = area.seen
    assert (before, number) == ((0, 0), (0, plan.round + 1)), "whoever reads meanwhile sees that there is none"
    assert content[0] == after == "fence", "elsewhere than on x86-64 too"
    assert [index for index, _ in content[1:]] == list(range(1, len(plan.to_words())))  # type: ignore[misc]


def test_a_plan_is_read_between_two_looks_at_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    state = made()
    plan = Plan(5, (0, 2, 4), (0, 1))
    state.stamp(plan)
    area = state._plans[1] = Recorder(state._plans[1], monkeypatch)  # type: ignore[call-overload]
    assert state.plans() == [None, plan]
    assert [step for step in area.seen if step != "fence"] == [0, "all", 0]
    assert " ".join(map(str, area.seen)).endswith("0 fence all fence 0")


@pytest.mark.parametrize("change", [6, 7, 0])
def test_a_plan_that_is_written_while_it_is_read_is_none(change: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody begins to write it anew (0), or has written another one (7); the same number again is the same plan."""
    state = made()
    state.stamp(Plan(5, (0, 2, 4), (0, 1)))
    recorder = Recorder(state._plans[1], monkeypatch)
    state._plans[1] = recorder  # type: ignore[call-overload]
    monkeypatch.setattr(recorder, "tolist", lambda: (recorder.area.tolist(), recorder.__setitem__(0, change))[0])
    assert (state.plans()[1] is None) == (change != 6)


def test_an_heir_s_name_is_read_before_what_it_inherits(monkeypatch: pytest.MonkeyPatch) -> None:
    heirs = made().heirs
    table = heirs._view = Recorder(heirs._view, monkeypatch)  # type: ignore[assignment]
    heirs.name(3, 5)
    assert heirs.of(3) == 5
    assert table.seen == ["fence", (3, 6), 3, "fence"]


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
