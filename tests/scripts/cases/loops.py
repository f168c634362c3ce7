"""Loops as people write them, and what is done to a model around its calls."""

from __future__ import annotations

import collections
import copy
import dataclasses
import io
from typing import Any

import torch
import torch.nn.functional as F
from run import CASES, batch, case, grads, mlp, share
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

X, Y = batch()


@case()
def torch_compile_before_and_after() -> Any:
    before, after, inner = mlp(), mlp(), mlp()
    inner[0] = torch.compile(inner[0], backend="eager")
    calls = [
        share(torch.compile(before, backend="eager")), torch.compile(share(after), backend="eager"), share(inner)
    ]  # fmt: skip
    for call in calls:
        F.cross_entropy(call(X), Y).backward()
    return grads(before, after, inner)


@case()
def scaled_losses_and_autocast() -> Any:
    class Island(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.low, self.high = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return self.high(self.low(x).float())

    model, scaler = share(Island()), torch.amp.GradScaler("cpu", init_scale=64.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(X), Y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    return list(model.parameters())


@case(like_plain=False)
def sixteen_bits_and_drawn_in_checkpoints() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(norm=True, dropout=0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            again: torch.Tensor = checkpoint(self.net, x, use_reentrant=False)
            return again

    model = share(Net())
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(X)
    F.cross_entropy(outputs.float(), Y).backward()
    return [*grads(model), *model.buffers()]


class Adapter(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(2, base.in_features, generator=torch.Generator().manual_seed(3)))
        self.up = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


@case()
def adapters_over_a_frozen_model() -> Any:
    model = mlp()
    model[0], model[3] = Adapter(model[0]), Adapter(model[3])
    model = share(model)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for step in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        if step == 1:
            model[3].base.requires_grad_(True)
    return [*model.parameters(), *grads(model)]


class Items(collections.OrderedDict):
    def __init__(self, **items: Any) -> None:
        super().__init__(**items)
        self.__dict__.update(items)


@dataclasses.dataclass
class Record:
    loss: Any = None
    others: Any = None


@case()
def outputs_and_arguments_of_own_classes() -> Any:
    model, found = mlp(), []

    def giving(kind: Any) -> Any:
        def call(given: Record, also: Any) -> Any:
            outputs = model(given.others)
            return kind(loss=F.cross_entropy(outputs, given.loss), others=(outputs, also, None))

        return share(call)

    for kind in (Items, Record, dict):
        out = giving(kind)(Record(Y, X), 3)
        assert type(out) is kind
        assert kind is not Items or out.loss is out["loss"]
        loss, others = (out["loss"], out["others"]) if isinstance(out, dict) else (out.loss, out.others)
        assert others[1:] == (3, None)
        loss.backward()
        found += [loss, others[0]]
    return [*found, *grads(model)]


@case(like_plain=False)
def a_script_that_goes_on_from_its_own_checkpoint() -> Any:
    def steps(model: nn.Module, optimizer: Any) -> None:
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()

    model = share(mlp(norm=True, dropout=0.3), workers=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    steps(model, optimizer)
    torch.save([model.state_dict(), optimizer.state_dict(), torch.get_rng_state()], file := io.BytesIO())
    file.seek(0)
    torch.manual_seed(9)
    model = mlp(norm=True, dropout=0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    saved = torch.load(file)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    model = share(model)
    torch.set_rng_state(saved[2])
    steps(model, optimizer)
    return list(model.state_dict().values())


@case()
def without_elements_and_without_parameters() -> Any:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.empty = nn.Parameter(torch.empty(0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 + self.empty.sum()

    empty, x = share(Empty()), X.clone().requires_grad_()
    (empty(x) + share(nn.Tanh())(x)).sum().backward()
    return [x.grad, empty.empty.grad]


@case()
def moved_halved_and_assigned() -> Any:
    model = share(mlp())
    found = [model(X)]
    model.to(torch.float64)
    found.append(model(X.double()))
    model.load_state_dict(mlp().state_dict(), assign=True)
    F.cross_entropy(model(X), Y).backward()
    found += grads(model)
    model.zero_grad()
    model.bfloat16()
    return [*found, model(X.bfloat16()).isfinite()]


@case()
def backward_in_every_way() -> Any:
    model, x = share(mlp()), X.clone().requires_grad_()
    loss = F.cross_entropy(model(x), Y)
    found = list(torch.autograd.grad(loss, [model[0].weight, x], retain_graph=True))
    loss.backward()
    outputs = model(x)
    for column in range(3):
        outputs[:, column].sum().backward(retain_graph=True)
    first, second = model(x), model(x[:7])
    (first.mul_(2).sum() + second.pow(2).sum()).backward()
    torch.manual_seed(4)
    narrow = share(nn.Linear(6, 6))
    narrow(narrow(x)).pow(2).sum().backward()
    return [*found, x.grad, *grads(model)]


@case()
def hooks_and_closures() -> Any:
    model, seen = share(mlp()), []
    model.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0].clone()))
    model.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model[0].weight.register_hook(lambda gradient: gradient * 3)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return [seen[0], *model.parameters()]


@case()
def weights_computed_from_others() -> Any:
    utils, new = nn.utils, nn.utils.parametrizations
    kinds: list[Any] = [
        new.weight_norm, new.spectral_norm, new.orthogonal, utils.weight_norm, utils.spectral_norm,
        lambda layer: utils.prune.l1_unstructured(layer, "weight", 0.3),  # type: ignore[no-untyped-call]
    ]  # fmt: skip
    given: list[Any] = []
    for kind in kinds:
        net = mlp()
        kind(net[0])
        model = share(net)
        new.weight_norm(model[3])  # its class has been changed
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            with parametrize.cached():
                F.cross_entropy(model(X), Y).backward()
            optimizer.step()
            given += [net[0].weight, *grads(model)]
            model.eval()
            with torch.no_grad():
                given.append(model(X))
            model.train()
        given += model.state_dict().values()
    torch.manual_seed(0)
    whole = new.weight_norm(nn.Linear(6, 3))
    F.cross_entropy(copy.deepcopy(share(whole))(X) + whole(X), Y).backward()
    return [*given, *grads(whole)]


@case()
def every_size_of_batch() -> Any:
    model = share(mlp(norm=True).eval(), microbatches=8)
    return [model(X[:size]) for size in (1, 2, 7, 20, 0)]


@case()
def traced_and_exported() -> Any:
    model = share(mlp())
    traced = torch.jit.trace(model, X, check_trace=False)
    return [traced(X + 1), torch.export.export(model, (X,)).module()(X + 1)]


def dual() -> Any:
    with forward_ad.dual_level():
        return share(mlp())(forward_ad.make_dual(X, X))


def functional() -> Any:
    model = share(mlp())
    return [torch.func.grad(lambda p: torch.func.functional_call(model, p, (X,)).sum())(dict(model.named_parameters()))]


for _name, _call in {
    "vmap": lambda: [torch.func.vmap(share(mlp()))(torch.stack([X, X]))],
    "forward_ad": dual,
    "functional_call": functional,
    "a distribution": lambda: [share(lambda x: torch.distributions.Normal(x, 1.0))(X)],
    "a distribution of one sample": lambda: [share(lambda x: torch.distributions.Normal(x, 1.0))(X[:1])],
}.items():
    CASES[f"refused: {_name}"] = _call, False
