"""What is found out about torch's optimizers before the first step."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed in this environment", allow_module_level=True)

import torch

from unisono.frameworks.pytorch import optimizers


class Normed(torch.optim.SGD):
    """Divides each gradient by its norm, in groups that say so: no longer element by element."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                norm = parameter.grad.norm() if group.get("normed", True) else 1.0
                parameter.data -= group["lr"] * parameter.grad / norm


class Summing(torch.optim.SGD):
    """Keeps one number more a tensor than the tensor has elements; its steps are element by element."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter].setdefault("kept", torch.zeros(parameter.numel() + 1))
                parameter.data -= group["lr"] * parameter.grad


def test_a_listed_class_that_does_not_act_element_by_element_updates_the_whole_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optimizers, "ELEMENTWISE", {Normed, Summing})
    values = [torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)]
    by_group = [{"params": values[:1], "normed": False}, {"params": values[1:], "normed": True}]
    for master in (Normed(values, lr=0.1), Normed(by_group, lr=0.1), Summing(values, lr=0.1)):
        with pytest.warns(UserWarning, match="one slot updates the whole model"):
            assert optimizers.kind_of(master) == "whole"
    assert optimizers.kind_of(Normed([{"params": values, "normed": False}], lr=0.1)) == "elementwise"


def test_a_path_that_the_job_has_chosen_is_kept() -> None:
    values = [torch.ones(3, requires_grad=True)]
    paths = [{}, {"foreach": True}, {"foreach": False}, {"fused": False}]
    fused = [
        optimizers.prepare(torch.optim.SGD(values, lr=0.1, **path))[0][0].param_groups[0]["fused"] for path in paths
    ]
    assert fused == [True, None, None, False]


def test_a_gpu_without_a_fused_kernel_leaves_the_choice_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [torch.ones(3, requires_grad=True) for _ in range(3)]
    masters, chosen = optimizers.prepare([
        torch.optim.Adagrad(values[:1]), torch.optim.Adam(values[1:2]), torch.optim.Adam(values[2:], fused=True),
    ])  # fmt: skip
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: "adagrad" not in name)
    optimizers.choose_on(torch.device("cpu"), masters, chosen)
    assert [master.param_groups[0]["fused"] for master in masters] == [True] * 3
    optimizers.choose_on(torch.device("cuda"), masters, chosen)
    assert [master.param_groups[0]["fused"] for master in masters] == [None, True, True]


def test_a_probe_of_an_elementwise_optimizer_is_small_and_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, probed = optimizers._probe, []

    def counted(master: Any, group: Any, tensor: torch.Tensor) -> Any:
        probed.append(tensor.numel())
        return probe(master, group, tensor)

    monkeypatch.setattr(optimizers, "_probe", counted)
    shapes = [(300, 200), (100, 400), (300, 200), (500,)]
    values = [torch.ones(shape, requires_grad=True) for shape in shapes]
    master = torch.optim.Adam(
        [{"params": values[:3]}, {"params": values[3:], "amsgrad": True}], lr=0.1, foreach=True
    )  # fmt: skip
    spec, _ = optimizers.state_of(master, "elementwise", {id(value): number for number, value in enumerate(values)})
    assert probed == [optimizers.SAMPLE**2, optimizers.SAMPLE]
    assert spec.scalars == ("step",)
    assert spec.vectors["exp_avg"] == {number: (shape, "float32") for number, shape in enumerate(shapes)}
    assert spec.vectors["max_exp_avg_sq"] == {3: ((500,), "float32")}


def test_an_optimizer_of_whole_tensors_is_probed_once_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    probe, probed = optimizers._probe, []

    def counted(master: Any, group: Any, tensor: torch.Tensor) -> Any:
        probed.append(tuple(tensor.shape))
        return probe(master, group, tensor)

    monkeypatch.setattr(optimizers, "_probe", counted)
    values = [torch.ones(shape, requires_grad=True) for shape in [(30, 20), (20,), (30, 20)]]
    spec, _ = optimizers.state_of(
        torch.optim.Adafactor(values), "tensor", {id(value): number for number, value in enumerate(values)}
    )
    assert probed == [(30, 20), (20,)]
    assert spec.vectors["row_var"] == {0: ((30, 1), "float32"), 2: ((30, 1), "float32")}
    assert spec.vectors["col_var"] == {0: ((1, 20), "float32"), 2: ((1, 20), "float32")}


def test_what_hooks_into_a_step_sees_the_whole_of_it() -> None:
    values = [torch.ones(3, requires_grad=True)]
    hooked, replaced = torch.optim.SGD(values, lr=0.1), torch.optim.SGD(values, lr=0.1)
    assert optimizers.kind_of(hooked) == "elementwise"
    hooked.register_step_pre_hook(lambda *_: None)
    replaced.step = lambda closure=None: None  # type: ignore[method-assign]
    assert [optimizers.kind_of(master) for master in (hooked, replaced)] == ["whole", "whole"]


class Counting(torch.optim.SGD):
    """Says that it acts element by element; its count is an integer, and is one to this day."""

    elementwise = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                assert type(state["count"]) is int
                state["m"] = state.get("m", torch.zeros_like(parameter)).mul(0.9).add_(parameter.grad)
                parameter.sub_(state["m"], alpha=group["lr"] * (1 + state["count"] % 2))


class Drifting(Counting):
    """Says so too, and counts in itself."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.count = getattr(self, "count", 0) + 1
        super().step()


def test_a_class_may_say_that_it_acts_element_by_element_and_is_believed_after_a_probe() -> None:
    values = [torch.ones(3, requires_grad=True)]
    counting = Counting(values, lr=0.1)
    assert optimizers.kind_of(counting) == "elementwise"
    spec, numbers = optimizers.state_of(counting, "elementwise", {id(values[0]): 0})
    assert (spec.scalars, numbers["count"](3.0)) == (("count",), 3)
    with pytest.warns(UserWarning, match="one slot updates the whole model"):
        assert optimizers.kind_of(Drifting(values, lr=0.1)) == "whole"
