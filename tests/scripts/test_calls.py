"""Calls in microbatches, computed in the script: what the loop around them sees is a plain module."""

from __future__ import annotations

import copy
import gc
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import unisono
from unisono.scripts.parallel import is_parallel


def mlp(*, dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    middle = [nn.BatchNorm1d(12)] if norm else []
    return nn.Sequential(nn.Linear(6, 12), *middle, nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, 3))


def batch(samples: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(samples, 6), torch.randint(0, 3, (samples,))


WORKERS = int(os.environ.get("UNISONO_TESTED_WORKERS", "0"))
"""`test_workers.py` runs this file with some."""


def shared(module: Any, **settings: Any) -> Any:
    return unisono.parallel(module, workers=WORKERS, **{"microbatches": 4, **settings})


def trained(model: nn.Module, steps: int = 4, samples: int = 20) -> list[torch.Tensor]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = batch(samples)
    torch.manual_seed(3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def near(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 20])
def test_a_loop_learns_what_the_plain_one_learns(samples: int) -> None:
    plain, model = mlp(), shared(mlp())
    near(trained(model, samples=samples), trained(plain, samples=samples))


def test_the_same_calls_give_the_same_bits_and_other_draws_others() -> None:
    one, again = trained(shared(mlp(dropout=0.3, norm=True))), trained(shared(mlp(dropout=0.3, norm=True)))
    assert all(torch.equal(*pair) for pair in zip(one, again, strict=True))
    model, (x, _) = shared(mlp(dropout=0.3)), batch()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = model(x)
    assert not torch.equal(model(x), first)
    torch.set_rng_state(state)
    assert torch.equal(model(x), first)


def test_a_call_draws_once_and_leaves_all_generators_as_they_were() -> None:
    model, (x, _) = shared(mlp(dropout=0.3)), batch()
    torch.manual_seed(4)
    torch.randint(1 << 62, ())
    after, others = torch.get_rng_state(), (random.getstate(), np.random.get_state()[1].copy())
    torch.manual_seed(4)
    model(x)
    assert torch.equal(torch.get_rng_state(), after)
    assert random.getstate() == others[0]
    assert (np.random.get_state()[1] == others[1]).all()


def test_statistics_are_averaged_over_the_samples() -> None:
    plain, model, (x, _) = mlp(norm=True), shared(mlp(norm=True)), batch(18)
    model(x)
    plain(x)
    near(model[1].running_mean, plain[1].running_mean)
    assert model[1].num_batches_tracked == 1
    kept = copy.deepcopy(model.state_dict())
    model.eval()
    model(x)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("samples", [1, 2, 3, 7])
def test_batch_statistics_have_two_samples_at_least(samples: int) -> None:
    model, (x, _) = shared(mlp(norm=True)), batch(samples)
    if samples == 1:
        with pytest.raises(unisono.JobError, match="Expected more than 1 value per channel"):
            model(x)
    else:
        assert model(x).shape == (samples, 3)


def test_the_module_stays_what_it_is() -> None:
    class Net(nn.Linear):
        pass

    net = Net(6, 3)
    names, model = list(net.state_dict()), shared(net)
    assert model is net
    assert isinstance(model, Net)
    assert type(model).__name__ == "Net"
    assert is_parallel(model)
    assert list(model.state_dict()) == names
    assert "calls" not in repr(model)
    x, _ = batch()
    other = copy.deepcopy(model)
    assert type(other) is Net
    assert not is_parallel(other)
    near(other(x), model(x))
    again = unisono.parallel(model, microbatches=2, workers=0)
    assert again is model
    assert type(copy.deepcopy(again)) is Net


def test_a_moving_average_by_deepcopy_and_changes_between_steps() -> None:
    def loop(model: nn.Module) -> list[torch.Tensor]:
        average = copy.deepcopy(model)
        optimizer, (x, y) = torch.optim.SGD(model.parameters(), lr=0.1), batch()
        for step in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                for kept, parameter in zip(average.parameters(), model.parameters(), strict=True):
                    kept.lerp_(parameter, 0.1)
                    parameter.clamp_(-0.4, 0.4)
                if step == 1:
                    model[0].weight.data = model[0].weight.data * 0.5
        return [*average.parameters(), *model.parameters(), average(x)]

    near(loop(shared(mlp())), loop(mlp()))


def test_models_with_other_loops_than_one_loss() -> None:
    def loop(generator: nn.Module, critic: nn.Module) -> list[torch.Tensor]:
        of_one, of_other = (torch.optim.SGD(each.parameters(), lr=0.1) for each in (generator, critic))
        for step in range(4):
            torch.manual_seed(step)
            real, z = torch.randn(20, 3), torch.randn(20, 6)
            fake = generator(z)
            of_other.zero_grad()
            (F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()).backward()
            of_other.step()
            if step % 2:
                of_one.zero_grad()
                F.softplus(-critic(fake)).mean().backward()
                of_one.step()
        return [*generator.parameters(), *critic.parameters()]

    def models() -> list[nn.Module]:
        torch.manual_seed(0)
        return [mlp(), nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))]

    near(loop(*shared(models())), loop(*models()))
    near(loop(*(shared(each) for each in models())), loop(*models()))


def test_a_function_over_modules_and_second_order_inside() -> None:
    def penalty(model: nn.Module) -> Any:
        def of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            x = x.requires_grad_()
            loss = F.cross_entropy(model(x), y)
            (slope,) = torch.autograd.grad(loss * len(x), x, create_graph=True)
            return loss + slope.pow(2).sum(1).mean()

        return of

    plain, model, (x, y) = mlp(), mlp(), batch()
    penalty(plain)(x.clone(), y).backward()
    shared(penalty(model))(x, y).backward()
    near([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])


def test_a_parallel_model_inside_a_parallel_function() -> None:
    plain, (x, y) = mlp(), batch()
    model = shared(mlp())

    @unisono.parallel(microbatches=4, workers=0)
    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y)

    loss_of(x, y).backward()
    F.cross_entropy(plain(x), y).backward()
    near([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])


def test_gradients_reach_inputs_and_accumulate_over_calls() -> None:
    results = []
    for model in (mlp(), shared(mlp())):
        x = batch()[0].requires_grad_()
        one, other = model(x), model(2 * x)
        (one.sum() + other.pow(2).sum()).backward()
        model(x).mean().backward()
        results.append([x.grad, *(p.grad for p in model.parameters())])
    near(*results)


def test_a_graph_can_be_kept_and_taken_in_part() -> None:
    model, (x, y) = shared(mlp()), batch()
    loss = F.cross_entropy(model(x), y)
    (first,) = torch.autograd.grad(loss, [model[0].weight], retain_graph=True)
    loss.backward()
    assert torch.equal(first, model[0].weight.grad)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_outputs_may_be_changed_in_place() -> None:
    results = []
    for model in (mlp(), shared(mlp())):
        model(batch()[0]).mul_(2).clamp_(min=0).sum().backward()
        results.append([p.grad for p in model.parameters()])
    near(*results)


def test_calls_that_are_never_taken_back_are_forgotten() -> None:
    model, (x, _) = shared(mlp()), batch()

    def graphs() -> int:
        gc.collect()
        return sum(type(each).__name__ == "_Graph" for each in gc.get_objects())

    before = graphs()
    for _ in range(5):
        model(x)
    assert graphs() <= before + 4


def test_unused_frozen_and_tied_parameters() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.token, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.head.weight = self.token.weight
            self.frozen, self.unused = nn.Linear(4, 4).requires_grad_(False), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.frozen(self.token(x)))

    tokens = torch.arange(18).reshape(6, 3) % 9
    results = []
    for model in (Net(), shared(Net(), microbatches=3)):
        model(tokens).pow(2).mean().backward()
        assert model.unused.weight.grad is None
        assert model.frozen.weight.grad is None
        model.frozen.requires_grad_(True)
        model(tokens).pow(2).mean().backward()
        results.append([model.token.weight.grad, model.frozen.weight.grad])
    near(*results)


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("reentrant", [True, False])
def test_recurrent_layers_and_checkpointing(reentrant: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.out = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h, _ = self.rnn(x)
            again: torch.Tensor = torch.utils.checkpoint.checkpoint(self.out, h, use_reentrant=reentrant)
            return again

    x, results = torch.randn(8, 4, 6), []
    for model in (Net(), shared(Net())):
        model(x).pow(2).sum().backward()
        results.append([p.grad for p in model.parameters()])
    near(*results)


def test_autocast_and_scaled_losses() -> None:
    results = []
    for model in (mlp(), shared(mlp())):
        x, y = batch()
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
        assert out.dtype is torch.bfloat16
        (F.cross_entropy(out.float(), y) * 128).backward()
        results.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*results, rtol=0.1, atol=1.0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_between_steps(mode: Any) -> None:
    plain, model, (x, y) = mlp(dropout=0.5, norm=True), shared(mlp(dropout=0.5, norm=True)), batch()
    F.cross_entropy(model(x), y).backward()
    model.load_state_dict(plain.state_dict())
    model.eval()
    plain.eval()
    with mode():
        near(model(x), plain(x))
        assert not model(x).requires_grad
    model.train()
    F.cross_entropy(model(x), y).backward()


def test_what_changes_between_calls_is_seen() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.scale, self.table, self.act = nn.Linear(6, 3), 1.0, torch.ones(3), torch.tanh

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.fc(x)) * self.scale * self.table

    x, results = batch()[0], []
    for model in (Net(), shared(Net())):
        found = [model(x)]
        model.scale = 2.0
        found.append(model(x))
        model.table.mul_(3)
        found.append(model(x))
        model.act = torch.relu
        found.append(model(x))
        model.fc = nn.Linear(6, 3)
        model.fc.load_state_dict({"weight": torch.ones(3, 6), "bias": torch.ones(3)})
        found.append(model(x))
        model.double()
        found.append(model(x.double()).float())
        model.load_state_dict({name: value.float() for name, value in model.state_dict().items()}, assign=True)
        found.append(model.float()(x))
        results.append(found)
    near(*results)


def test_an_optimizer_comes_back_whenever_it_was_made() -> None:
    net = mlp()
    before = torch.optim.SGD(net.parameters(), lr=0.1)
    model, optimizer = unisono.parallel(net, before, microbatches=4, workers=0)
    assert model is net
    assert optimizer is before
    after = torch.optim.LBFGS(model.parameters(), max_iter=3)
    x, y = batch()

    def closure() -> torch.Tensor:
        after.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    first = float(closure().detach())
    after.step(closure)
    optimizer.step()
    assert float(closure().detach()) < first


def test_hooks_of_the_module_and_of_its_parameters_hear_of_the_whole_batch() -> None:
    model, heard = shared(mlp()), []
    model.register_forward_hook(lambda module, args, output: heard.append(("forward", len(output))))
    model[0].weight.register_hook(lambda gradient: heard.append(("gradient", len(gradient))))
    model(batch()[0]).sum().backward()
    assert heard == [("forward", 20), ("gradient", 12)]


def test_a_checkpoint_holds_what_a_plain_one_holds() -> None:
    plain, model = mlp(norm=True), shared(mlp(norm=True))
    model(batch()[0])
    one, other = io.BytesIO(), io.BytesIO()
    torch.save(plain.state_dict(), one)
    torch.save(model.state_dict(), other)
    assert abs(one.tell() - other.tell()) < 512
    torch.save(model, whole := io.BytesIO())
    whole.seek(0)
    assert type(torch.load(whole, weights_only=False)) is nn.Sequential


def test_each_backward_pass_leaves_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISONO_HASHES", str(tmp_path / "hashes.jsonl"))
    model, (x, y) = shared(mlp()), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (F.cross_entropy(model(x), y) + model(x).mean()).backward()
        optimizer.step()
    one, other = map(json.loads, (tmp_path / "hashes.jsonl").read_text().splitlines())
    assert (one["backward"], other["backward"]) == (0, 1)
    assert list(one["parameters"]) == [f"Sequential.{name}" for name, _ in model.named_parameters()]
    assert one["parameters"] != other["parameters"]
    assert one["gradients"].keys() == one["parameters"].keys()
    assert len(one["workers"]) == WORKERS
