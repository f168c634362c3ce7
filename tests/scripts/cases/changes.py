"""What a script changes between calls, and what calls leave behind."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from run import CASES, batch, case, mlp, share
from torch import nn

X = batch()[0]


class Settings:
    scale = 1.0


class Net(nn.Linear):
    """Multiplies by something that `of` finds."""

    scale = 1.0

    def __init__(self, of: Callable[[Any], Any], **held: Any) -> None:
        torch.manual_seed(0)
        super().__init__(6, 2)
        self.of = of
        self.__dict__.update(held)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.of(self)


def seen(net: Net, *changes: Callable[[Net], Any]) -> list[torch.Tensor]:
    model = share(net)
    found = [model(X)]
    for change in changes:
        change(model)
        found.append(model(X))
    return found


@case()
def plain_values() -> Any:
    net = Net(lambda net: net.scale * net.scales[0], scale=2, scales=[1.0])
    kept = net.scales

    def alias(net: Net) -> None:
        kept[0] = 7.0

    return seen(
        net, lambda net: net.scales.insert(0, 3.0), lambda net: setattr(net, "scale", 2.5), alias,
        lambda net: delattr(net, "scale"),
    )  # fmt: skip


@case()
def an_integer_that_becomes_a_float() -> Any:
    class Scale(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale

    model = Scale()
    model.scale = 1
    model, x = share(model), torch.arange(20).reshape(20, 1)
    found = [model(x)]
    model.scale = 1.0
    return [*found, model(x)]


@case()
def objects() -> Any:
    found = seen(
        Net(lambda net: net.own.scale * net.named.scale, own=Namespace(scale=1.0), named=SimpleNamespace(scale=1)),
        lambda net: setattr(net.own, "scale", 3.0), lambda net: setattr(net.named, "scale", 5.0),
    )  # fmt: skip
    return found + seen(
        Net(lambda net: net.held["a"]["b"][0]["c"], held={"a": {"b": [{"c": 1.0}]}}),
        lambda net: net.held["a"]["b"][0].update(c=4.0),
    )


@case()
def large_lists_arrays_and_tensors() -> Any:
    def through_numpy(net: Net) -> None:
        net.held.numpy()[0] = 9.0

    found = seen(Net(lambda net: net.held[77], held=[1.0] * 1000), lambda net: net.held.__setitem__(77, 2.0))
    found += seen(Net(lambda net: float(net.held[1]), held=np.ones(3)), lambda net: net.held.fill(3.0))
    found += seen(
        Net(lambda net: net.held, held=torch.ones(2)), lambda net: net.held.mul_(2), lambda net: net.held.data.fill_(5),
        through_numpy,
    )  # fmt: skip
    return found + seen(
        Net(lambda net: net.held[0], held=[torch.ones(2)]), lambda net: net.held[0].mul_(2),
        lambda net: net.held.__setitem__(0, torch.ones(2) * 3),
    )  # fmt: skip


class Size:
    def __init__(self, value: float) -> None:
        self.value = value


SCALES, TABLE = [1.0, 1.0], torch.ones(2)


@case()
def globals_and_classes() -> Any:
    def reset() -> None:
        Settings.scale, SCALES[1], Net.scale = 1.0, 1.0, 1.0
        TABLE.fill_(1.0)

    reset()
    found = seen(Net(lambda net: Settings.scale), lambda net: setattr(Settings, "scale", 3.0))
    found += seen(Net(lambda net: net.scale), lambda net: setattr(Net, "scale", 4.0))
    found += seen(Net(lambda net: sum([s * SCALES[1] for s in [1, 2]])), lambda net: SCALES.__setitem__(1, 5.0))
    found += seen(Net(lambda net: TABLE), lambda net: TABLE.mul_(6.0))
    reset()
    return found


@case()
def an_object_of_a_class_that_only_arguments_have() -> Any:
    call = share(lambda x, size: x * size.value)
    return [call(X, Size(2.0)), call(X, Size(3.0))]


@case()
def a_mask_that_each_pass_makes_for_itself() -> Any:
    def mask(net: Any) -> Any:
        if len(getattr(net, "mask", ())) < 2:
            net.mask = torch.ones(2) * 3
        return net.mask

    model = share(Net(mask))
    one, other = model(X), model(X)
    (one.sum() + other.pow(2).sum()).backward()
    return [one, other, model.weight.grad]


# -- refused ---------------------------------------------------------------------------------------------------


def left(of: Callable[[Any], Any], **held: Any) -> Any:
    model = share(Net(of, **held))
    return [model(X) for _ in range(3)]


def counted(net: Any) -> int:
    net.count = getattr(net, "count", 0) + 1
    return 1


def averaged(net: Any) -> int:
    net.average = 0.9 * net.average + 0.1 * net.weight.detach().mean() * torch.rand(())
    return 1


def grown(net: Any) -> int:
    net.layer = nn.Linear(1, 1)
    return 1


def clamped(net: Any) -> int:
    net.weight.data.clamp_(-0.01, 0.01)
    return 1


LEAVING: dict[str, Callable[[], Any]] = {
    "a new attribute": lambda: left(counted),
    "a list": lambda: left(lambda net: net.held.append(1.0) or 1, held=[]),
    "a list of features": lambda: left(lambda net: net.held.append(net.weight * 1) or 1, held=[]),
    "an average": lambda: left(averaged, average=torch.ones(())),
    "a tensor": lambda: left(lambda net: int(net.held.add_(1) > 0), held=torch.ones(())),
    "an object": lambda: left(lambda net: setattr(net.held, "n", 2) or 1, held=Namespace(n=0)),
    "a class": lambda: left(lambda net: setattr(Settings, "n", 2) or 1),
    "a generator": lambda: left(lambda net: torch.rand((), generator=net.held) * 0 + 1, held=torch.Generator()),
    "NumPy's generator": lambda: left(lambda net: net.held.random() * 0 + 1, held=np.random.default_rng()),
    "a global": lambda: left(lambda net: SCALES.append(1.0) or 1),
    "a layer": lambda: left(grown),
    "a parameter": lambda: left(clamped),
    "max_norm": lambda: [share(nn.Embedding(9, 2, max_norm=0.1))(torch.arange(8))],
    "an argument": lambda: [share(lambda x: x.mul_(2))(X.clone())],
    "a dictionary": lambda: [share(lambda b: b.pop("x"))({"x": X})],
    "an object given": lambda: [share(lambda x, o: setattr(o, "n", 1) or x)(X, Namespace(n=0))],
}  # fmt: skip


@case()
def modules_still_compute_after_refusals() -> Any:
    return [share(mlp())(X)]


for _name, _call in LEAVING.items():
    CASES[f"refused: {_name}"] = _call, False
