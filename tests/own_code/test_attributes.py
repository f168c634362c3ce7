"""Plain attributes that a forward pass writes: refused where they are carried on, else they do no harm."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jobs
from counting import lines_of
from everywhere import hold_to_one_hash
from faults import run, undisturbed
from jobs import CLASSES, FEATURES
from unisono.errors import JobError
from unisono.frameworks.attributes import shapes
from unisono.frameworks.pytorch.attributes import attributes_of
from unisono.runtime.supervisor.outcome import raise_failure


class Writing(nn.Module):
    """Calls a function with itself and what the first layer gives; its result is added.

    Args:
        change: the function.
        attributes: more of the model.
    """

    def __init__(self, change: Any, **attributes: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 33), nn.Linear(33, CLASSES)
        self.change = change
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        out: Tensor = self.last(hidden + self.change(self, hidden))
        return out


class Bag:
    """An object of the user's."""

    count = 0


def counting(model: Any, hidden: Tensor) -> Any:
    model.calls += 1
    return 1 / model.calls


def annealing(model: Any, hidden: Tensor) -> Any:
    model.weight = min(1.0, model.weight + 0.1) if model.training else model.weight
    return model.weight


def averaging(model: Any, hidden: Tensor) -> Any:
    model.mean = 0.9 * model.mean + 0.1 * hidden.detach().mean(0)
    return model.mean


def averaging_in_place(model: Any, hidden: Tensor) -> Any:
    model.mean.mul_(0.9).add_(hidden.detach().mean(0), alpha=0.1)
    return model.mean


def from_the_first_batch(model: Any, hidden: Tensor) -> Any:
    if not hasattr(model, "scale"):
        model.scale = hidden.detach().std(0)
    return model.scale


def remembering(model: Any, hidden: Tensor) -> Any:
    model.seen.append(float(hidden.detach().mean()))
    return sum(model.seen) / len(model.seen)


def replacing(model: Any, hidden: Tensor) -> Any:
    last = model.bank.get("last", 0.0)
    model.bank["last"] = float(hidden.detach().mean())
    return last


def counting_in_an_object(model: Any, hidden: Tensor) -> Any:
    model.bag.count += 1
    return model.bag.count


def drawing(model: Any, hidden: Tensor) -> Any:
    return float(model.draw.random())


def drawing_tensors(model: Any, hidden: Tensor) -> Any:
    return torch.rand(33, generator=model.draw)


REFUSED: dict[str, Any] = {
    "a count": lambda: Writing(counting, calls=0),
    "a weight": lambda: Writing(annealing, weight=0.0),
    "an average": lambda: Writing(averaging, mean=torch.zeros(33)),
    "an average in place": lambda: Writing(averaging_in_place, mean=torch.zeros(33)),
    "what the first batch says": lambda: Writing(from_the_first_batch),
    "a list": lambda: Writing(remembering, seen=[]),
    "an entry": lambda: Writing(replacing, bank={"last": 0.0}),
    "an object": lambda: Writing(counting_in_an_object, bag=Bag()),
    "a generator": lambda: Writing(drawing, draw=np.random.default_rng(0)),
    "another generator": lambda: Writing(drawing, draw=random.Random(0)),
    "a generator of tensors": lambda: Writing(drawing_tensors, draw=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_carried_on_is_refused_by_name(what: str) -> None:
    name = next(iter(vars(REFUSED[what]()).keys() - vars(Writing(None)).keys()), "scale")
    with pytest.raises(JobError, match=rf"may not carry plain attributes .* it changes '{name}' and reads it again"):
        raise_failure(run(jobs.make(REFUSED[what]))[0])


def test_it_is_refused_in_every_worker_and_part_of_the_model() -> None:
    with pytest.raises(JobError, match=r"it changes '1\.calls' .*register_buffer"):
        raise_failure(run(jobs.make(lambda: nn.Sequential(nn.Identity(), Writing(counting, calls=0))), 2)[0])

    class Loss:
        steps = 0

        def __call__(self, outputs: Tensor, targets: Tensor) -> Any:
            self.steps += 1
            return nn.functional.cross_entropy(outputs, targets) * min(1.0, self.steps / 10)

    with pytest.raises(JobError, match=r"it changes 'loss\.steps'"):
        raise_failure(run(jobs.make(loss=Loss()), 2)[0])


def attention(model: Any, hidden: Tensor) -> Any:
    model.attention = hidden.softmax(1)
    return model.attention


def mask(model: Any, hidden: Tensor) -> Any:
    if model.mask is None or model.mask.shape[0] != len(hidden):
        model.mask = torch.arange(len(hidden) * 33).reshape(-1, 33) % 3
    return model.mask


def table(model: Any, hidden: Tensor) -> Any:
    if len(hidden) > model.longest:
        model.longest, model.table = len(hidden), torch.arange(len(hidden) * 33).reshape(-1, 33) % 5
    return model.table[: len(hidden)]


def cached(model: Any, hidden: Tensor) -> Any:
    if len(hidden) not in model.cache:
        model.cache[len(hidden)] = torch.arange(33) % len(hidden)
    return model.cache[len(hidden)]


HARMLESS: dict[str, Any] = {
    "written first": lambda: Writing(attention),
    "the same for all": lambda: Writing(mask, mask=None),
    "longer at times": lambda: Writing(table, longest=0),
    "by shape": lambda: Writing(cached, cache={}),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_what_is_not_carried_on_does_no_harm(what: str, tmp_path: Path) -> None:
    job = jobs.make(HARMLESS[what], batch_size=30, microbatches=4, order="shuffled")  # of 8 and of 6 samples
    hold_to_one_hash(job, tmp_path)
    assert len(undisturbed(job)[1]) >= 6


@pytest.mark.parametrize("writes", [False, True])
def test_a_pass_of_many_modules_is_one_look(writes: bool) -> None:
    """What a pass writes before it reads it is looked at no more, either."""

    class Plain(nn.Linear):
        heads = 4

        def forward(self, inputs: Tensor) -> Tensor:
            if writes:
                self.attention = inputs
            return super().forward(inputs)

    def one_more(count: int) -> Any:
        model = nn.Sequential(*(Plain(2, 2) for _ in range(count)))
        attributes, inputs = attributes_of(model, None), torch.ones(1, 2)

        def look() -> None:
            with attributes.one_pass(lambda: shapes(inputs)):
                model(inputs)

        for _ in range(8):
            look()
        return look

    assert lines_of(one_more(40)) < 40
