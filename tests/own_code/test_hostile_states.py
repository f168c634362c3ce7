"""A saved optimizer's state is made of what the optimizer itself is made of, and is checked before anything is made."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import tempfile
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed in this environment", allow_module_level=True)
import torch

from own_code.optimizers import Own
from unisono.errors import JobError
from unisono.frameworks.pytorch.whole import WholeOptimizer
from unisono.frameworks.pytorch.whole_probe import probe


class Helper:
    """Something of the job's own."""

    __slots__ = ("__hidden", "value")

    def __init__(self) -> None:
        self.value, self.__hidden = 1, 2

    def half(self) -> float:
        return self.value / self.__hidden


class Remembering(Own):
    """It keeps objects, and calls of them."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.helper: Any = Helper()
        self.call: Any = self.helper.half
        self.draws = np.random.default_rng(3)

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        state.setdefault("helpers", []).append(Helper())
        self.draws.random()
        p.sub_(grad)


class Loud:
    """The job knows it, and it does something when it goes."""

    gone = 0

    def __del__(self) -> None:
        Loud.gone += 1


def kept() -> WholeOptimizer:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 2)
    return WholeOptimizer(Remembering(model.parameters()), model, "optimizer")


def saved() -> tuple[Any, dict[str, Any]]:
    one = kept()
    probe(one)
    parameters = one.master.param_groups[0]["params"]
    one.step([(p, torch.ones_like(p)) for p in parameters], range(0))
    plain, arrays = one.content()
    return copy.deepcopy(plain), {name: array.copy() for name, array in arrays.items()}


def test_what_was_written_is_read_again() -> None:
    one = kept()
    plain, arrays = saved()
    one.read(plain, arrays)
    assert one.content()[0]["tree"] == plain["tree"]
    assert one.master.call() == one.master.helper.half() == 0.5
    helpers = [each for state in one.master.state.values() for each in state["helpers"]]
    assert [(type(each), each.half()) for each in helpers] == [(Helper, 0.5)] * 2


TREES = {
    "a class that does damage when it goes": ["object", 900, "subprocess:Popen", [["pid", 1]]],
    "a class of the job's that does something when it goes": ["object", 900, f"{__name__}:Loud", []],
    "a class of a module that is imported": ["object", 900, "tempfile:TemporaryDirectory", []],
    "an object of no class": ["object", 900, None, []],
    "a class that is called by a dictionary": ["defaultdict", 900, [], ["class", "subprocess:Popen"]],
    "a function as a member": ["member", "builtins:dict", "fromkeys"],
    "a tuple that is none": ["named", 900, "builtins:dict", []],
    "a property instead of a method": ["method", ["object", 900, f"{__name__}:Helper", []], "__class__"],
    "bytes as addresses": ["number", "|O", "00" * 8],
    "too few bytes": ["number", "<f8", "00"],
    "an array that is not there": ["array", 900, "nowhere", "<f4", [2]],
    "a tensor that is not there": ["tensor", 900],
    "an object that was not made": ["same", 900],
    "a generator that is none": ["generator", 900, "neutral", ["dict", 901, [["bit_generator", "seed"]]]],
    "a kind that nobody writes": ["_target", 1, 2],
    "a field too many": ["float", "inf", 1],
    "a dictionary of JSON": {"a": 1},
    "nothing": [],
    "a name that is none": [["list"], 1, []],
    "a part of no model": ["model", "nowhere"],
    "a constant that is none": ["constant", ["dtype", "nn"]],
}


@pytest.mark.parametrize("what", TREES)
def test_what_the_optimizer_is_not_made_of_is_refused_before_it_is_made(what: str) -> None:
    assert subprocess
    assert tempfile
    one, gone = kept(), Loud.gone
    plain, arrays = saved()
    next(item for item in plain["tree"][3] if item[0] == "helper")[1] = TREES[what]
    with pytest.raises(JobError, match="a saved state must be that of the job's optimizer; optimizer's is not: "):
        one.read(plain, arrays)
    assert Loud.gone == gone


@pytest.mark.parametrize("place", [
    ["float32", [2**40], [1], 0], ["float32", [2], [2**40], 0], ["float32", [2], [-1], 0], ["float32", [1], [1], 2],
    ["float32", [1], [1], -4], ["float32", [2], [1, 1], 0], ["nn", [1], [1], 0],
])  # fmt: skip
def test_tensors_lie_within_their_bytes(place: list[Any]) -> None:
    one = kept()
    plain, arrays = saved()
    arrays["small"] = np.zeros(8, "uint8")
    plain["arrays"].append(["memory", "small", *place, False, False])
    with pytest.raises(JobError, match="is no place in 8 bytes"):
        one.read(plain, arrays)


def test_a_class_that_appears_and_cannot_be_made_again_is_refused_by_name() -> None:
    one = kept()

    class Local:
        """Nobody finds it again."""

    one.master.helper = Local()
    with pytest.raises(JobError, match=r"optimizer\.helper \(a .*Local\) .* cannot be kept"):
        one.content()
