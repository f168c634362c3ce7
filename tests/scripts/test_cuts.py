"""What of a call is cut, how outputs are joined, and what is refused."""

from __future__ import annotations

import copy
import os
import threading
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import unisono

WORKERS = int(os.environ.get("UNISONO_TESTED_WORKERS", "0"))
"""`test_workers.py` runs this file with some."""


def shared(target: Any, **settings: Any) -> Any:
    return unisono.parallel(target, workers=WORKERS, **{"microbatches": 4, **settings})


def same(target: Any, *args: Any, **kwargs: Any) -> Any:
    """What a parallel call gives, held to the plain one."""
    plain = target(*args, **kwargs)
    found = shared(target)(*args, **kwargs)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    return found


X = torch.arange(40.0).reshape(20, 2) / 40


def test_what_is_cut_is_told_by_results_not_by_lengths() -> None:
    table, mask = torch.randn(20, 3), torch.ones(20, 20).tril()
    same(lambda x, table: x @ torch.ones(2, 3) + table.sum(0), X, table)
    same(lambda ids, table: table[ids], torch.arange(20).flip(0), table)
    x = torch.randn(20, 20, 4)
    same(lambda x, mask: mask @ x, x, mask)
    same(lambda mask, x: mask @ x, mask, x)
    same(lambda x, y, table: (x * y).sum(1, keepdim=True) + table.mean(0), X, X + 1, table)


def test_what_was_cut_stays_cut() -> None:
    table = torch.randn(20, 3)
    call = shared(lambda ids, table: table[ids])
    call(torch.arange(20), table)
    assert torch.equal(call(torch.arange(7), table), table[:7])
    pair = shared(lambda x, y: x + y)
    pair(X, X)
    with pytest.raises(
        unisono.UsageError, match=r"equally long along dimension 0; received shapes \(20, 2\), \(7, 2\)"
    ):
        pair(X, X[:7])


class Pair(NamedTuple):
    first: torch.Tensor
    second: Any


def test_nested_arguments_and_outputs() -> None:
    found = same(lambda batch, flag: {"a": batch["x"] * 2, "b": [batch["y"], None, flag]}, {"x": X, "y": X[:, 0]}, 5)
    assert found["b"][1:] == [None, 5]
    assert shared(lambda x, name: name)(X, "a") == "a"
    assert type(same(lambda x: Pair(x, (x.sum(1), None)), X)) is Pair
    same(lambda x, *, y: (x + y, len(x), 7, True), X, y=X)


def test_numbers_are_means_or_sums() -> None:
    same(lambda x: (x.mean(), x.sum(), (x > 0.4).sum(), x.mean().item()), X)
    same(lambda x, count: x.pow(2).sum() / count, X, torch.tensor(20))
    call = shared(lambda x: (x.mean(), x.sum()))
    x = X.clone().requires_grad_()
    mean, total = call(x)
    (mean * 3 + total).backward()
    torch.testing.assert_close(x.grad, torch.full((20, 2), 3 / 40 + 1))
    x = X[:7].clone().requires_grad_()
    call(x)[0].backward()
    torch.testing.assert_close(x.grad, torch.full((7, 2), 1 / 14))


@pytest.mark.parametrize("samples", [1, 2, 3, 7])
def test_small_batches_have_fewer_pieces(samples: int) -> None:
    assert same(lambda x: x * 2, X[:samples]).shape == (samples, 2)


def test_a_number_that_is_neither_is_refused() -> None:
    def contrast(x: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x @ x.T * 9, torch.arange(len(x)))

    with pytest.raises(
        unisono.UsageError, match=r"(?s)mean over samples or the sum; received output 0.*outside the call"
    ):
        shared(contrast)(torch.randn(20, 2))
    with pytest.raises(unisono.UsageError, match="mean over samples"):
        shared(lambda x: x - x.mean(0))(X)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("make", [lambda: nn.LSTM(2, 2), lambda: nn.Transformer(4, 1, 1, 1, 4, dropout=0.0)])
def test_time_first_is_refused_with_the_way_out(make: Any) -> None:
    module = make()
    x = torch.randn(8, 4, 2 if isinstance(module, nn.LSTM) else 4)
    plain = copy.deepcopy(module).eval()
    args = (x,) if isinstance(module, nn.LSTM) else (x, x)
    with pytest.raises(unisono.UsageError, match="dim=1"):
        shared(module)(*args)
    found = unisono.parallel(module.eval(), microbatches=2, workers=0, dim=1)(*args)
    torch.testing.assert_close(found, plain(*args), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [8, 2])
def test_the_state_of_a_recurrent_module_is_cut_and_joined_along_its_own_dimension(samples: int) -> None:
    plain = nn.LSTM(2, 3, num_layers=2, batch_first=True)
    module = copy.deepcopy(plain)
    call, x = shared(module), torch.randn(samples, 5, 2)
    outputs, state = call(x)
    torch.testing.assert_close((outputs, state), plain(x), rtol=1e-4, atol=1e-5)
    state = tuple(each.detach().requires_grad_() for each in state)
    call(x, state)[0].sum().backward()
    again = tuple(each.detach().requires_grad_() for each in state)
    plain(x, again)[0].sum().backward()
    found, expected = ([*states, *net.parameters()] for states, net in ((state, module), (again, plain)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_random_numbers_drawn_by_functions_do_not_hide_a_join() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            x = x * float(np.random.random()) if self.training else x  # PyTorch does not see who draws
            return x, x.mean()

    assert shared(Net())(X)[1].dim() == 0


def drawing(x: torch.Tensor) -> Any:
    """What forward passes draw in every mode: a sample of a latent variable, categories, an order, dropped places."""
    latent = x + torch.randn_like(x) * 0.1
    kinds = F.gumbel_softmax(x, hard=True) + torch.nn.functional.one_hot(torch.multinomial(F.softmax(x, 1), 1)[:, 0], 2)
    mixed = x[torch.randperm(len(x))] + torch.arange(3.0)[torch.randint(1, 3, (len(x), 1))]
    queries = x[:, None]
    attended = F.scaled_dot_product_attention(queries, queries, queries, dropout_p=0.5)
    dropped = F.dropout(x, 0.5) * torch.bernoulli(x.sigmoid()) * (torch.rand(len(x), 1) < 0.7)
    total = sum(each.square().sum() for each in (latent, kinds, mixed, attended, dropped))
    return latent, kinds, mixed, attended, dropped, total, dropped.mean()


def test_random_numbers_drawn_in_every_mode_do_not_hide_a_join() -> None:
    plain, found = drawing(X), shared(drawing)(X)
    assert [each.shape for each in found] == [each.shape for each in plain]
    assert found[5] == pytest.approx(float(sum(each.square().sum() for each in found[:5])), rel=1e-4), "a sum"
    assert found[6] == pytest.approx(float(found[4].mean()), rel=1e-4), "a mean"


def test_what_is_drawn_seldom_does_not_break_a_later_call() -> None:
    call = shared(lambda x: x * (torch.rand(len(x), 1) < 0.9), microbatches=2)
    for _ in range(16):
        call(X[:4])


def test_random_numbers_do_not_hide_what_depends_on_the_whole_batch() -> None:
    def contrastive(x: torch.Tensor) -> Any:
        one, other = F.dropout(x + 1, 0.5), F.dropout(x + 1, 0.5)
        return F.cross_entropy(one @ other.T, torch.arange(len(x)))

    with pytest.raises(unisono.UsageError, match="compute it outside the call"):
        shared(contrastive)(X)


def test_modes_may_return_other_structures() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return {"loss": x.mean(), "logits": x} if self.training else x

    model = shared(Net())
    assert set(model(X)) == {"loss", "logits"}
    model.eval()
    assert torch.equal(model(X), X)


def test_a_rule_that_only_a_later_call_breaks() -> None:
    call = shared(lambda x: x * x.sum())
    assert torch.equal(call(torch.zeros(20, 2)), torch.zeros(20, 2))
    with pytest.raises(unisono.UsageError, match="mean over samples"):
        call(X)


def net(**members: Any) -> nn.Module:
    return type("Net", (nn.Linear,), members)(2, 2)


def leaving(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.count = getattr(self, "count", 0) + 1
    return x


def feature(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.features = F.linear(x, self.weight)
    return self.features


def counting(self: Any, x: torch.Tensor) -> torch.Tensor:
    self.seen += 1
    return x


REFUSED: list[tuple[Any, tuple[Any, ...], str]] = [
    (lambda: net(forward=feature), (X,), "leaves nothing behind but buffers.*Net.features"),
    (lambda: net(forward=counting), (X,), "Net.seen"),
    (lambda: nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2)), (X,), "SyncBatchNorm"),
    (lambda: lambda x: x, (3,), "received none that has it"),
    (lambda: lambda x, y: x, (X, SimpleNamespace(y=X)), "inside a SimpleNamespace"),
    (lambda: lambda x, y: x, (X, (each for each in "ab")), "cannot be pickled"),
    (lambda: lambda x: x.to_sparse(), (X,), "returns dense tensors"),
    (lambda: lambda x: x, (X.to_sparse(),), "takes dense tensors"),
    (lambda: nn.Embedding(9, 2, sparse=True), (torch.arange(8),), "sparse=False"),
    (lambda: nn.LazyLinear(2), (X,), "lazy module"),
]


@pytest.mark.parametrize(("make", "args", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_what_cannot_be_kept_is_refused(make: Any, args: tuple[Any, ...], text: str) -> None:
    target = make()
    if isinstance(target, nn.Module):
        target.seen = 0
    with pytest.raises(unisono.UsageError, match=f"(?s){text}"):
        shared(target)(*args).sum().backward()


def test_hooks_of_inner_modules_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    call = shared(model)
    call(X)
    model[0].register_forward_hook(lambda *args: None)
    with pytest.raises(unisono.UsageError, match="hooks of inner modules"):
        call(X)


def test_parameters_that_change_before_their_backward_are_refused() -> None:
    model = shared(nn.Linear(2, 2))
    loss = model(X).sum()
    with torch.no_grad():
        model.weight.mul_(2)
    with pytest.raises(unisono.UsageError, match=r"optimizer.step\(\) after backward"):
        loss.backward()
    loss = model(X).sum()
    model.weight = nn.Parameter(torch.ones(2, 2))
    model(X)
    with pytest.raises(unisono.UsageError, match=r"Do that after backward"):
        loss.backward()


def test_a_graph_of_the_gradients_is_refused() -> None:
    model, x = shared(nn.Linear(2, 2)), X.clone().requires_grad_()
    with pytest.raises(unisono.UsageError, match="create_graph=True"):
        torch.autograd.grad(model(x).sum(), x, create_graph=True)


def test_what_is_no_model_is_refused() -> None:
    model = nn.Linear(2, 2)
    loader = torch.utils.data.DataLoader([1, 2])
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(model.parameters(), lr=1), 1)
    for args, text in [
        ((loader,), "DataLoader needs no change"), ((scheduler,), "StepLR needs no change"), ((3,), "received 3"),
        ((model, loader), "received DataLoader"), ((nn.Linear,), "takes a module"), (([model, model],), "twice"),
        ((None, torch.optim.SGD(model.parameters(), lr=1)), "beside its model"),
    ]:  # fmt: skip
        with pytest.raises(unisono.UsageError, match=text):
            unisono.parallel(*args)
    with pytest.raises(unisono.UsageError, match="microbatches must be a whole number"):
        unisono.parallel(model, microbatches=0)
    with pytest.raises(unisono.UsageError, match="workers must be a whole number"):
        unisono.parallel(model, workers=-1)


def test_a_script_that_a_launcher_has_started_several_times_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(unisono.UsageError, match=r"received WORLD_SIZE='4' .*unisono run script.py"):
        shared(nn.Linear(2, 2))


def test_what_batch_norm_sees_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    model = shared(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    model(X)
    model(X)
    said = "unisono: BatchNorm1d sees 5 of 20 samples, as under DDP on 4 ranks; microbatches=1 keeps the plain script's"
    assert capsys.readouterr().err.count(said) == 1
    shared(model.eval())(X)
    assert not capsys.readouterr().err


def test_what_a_model_raises_is_told_with_the_line_of_the_call() -> None:
    def wrong(x: torch.Tensor) -> torch.Tensor:
        if len(x) < 20:
            raise ValueError("too few")
        return x

    with pytest.raises(unisono.UsageError, match=r"(?s)cannot be computed.*too few"):
        shared(wrong)(X)
    with pytest.raises(
        unisono.JobError, match=r"(?s)ValueError.*wrong, called at .*test_cuts.py:\d+; .*ValueError: too few$"
    ):
        shared(wrong)(X[:2])


def test_what_cannot_travel_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].log = threading.Lock()
    with pytest.raises(unisono.UsageError, match=r"Sequential.0.log \(a lock\)"):
        shared(model)(X)
