"""Optimizers as people write them train as in a plain loop, and keep all that they hold through deaths and resumes."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed in this environment", allow_module_level=True)

import torch
import torch.nn.functional as F
from torch import nn

import unisono
from everywhere import hold_to_one_hash
from faults import Fault, Script, hash_of, run, undisturbed
from frameworks.loops.pytorch import Loop
from held import hold
from own_code import optimizers as own
from unisono import Job
from unisono.errors import UnisonoError, UsageError
from unisono.runtime.supervisor.outcome import raise_failure

SAMPLES = list(zip(torch.randn(96, 8, generator=torch.Generator().manual_seed(0)),
                   torch.randint(0, 3, (96,), generator=torch.Generator().manual_seed(1)), strict=True))  # fmt: skip


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def prodigy(params: Any) -> Any:
    from prodigyopt import Prodigy

    return Prodigy(params, weight_decay=0.01)


def lion(params: Any) -> Any:
    from lion_pytorch import Lion

    return Lion(params, lr=1e-3)


def schedulefree(params: Any) -> Any:
    from schedulefree import AdamWScheduleFree

    return AdamWScheduleFree(params, lr=0.02, warmup_steps=3)


DEATHS = (Fault("microbatch", 2, 0), Fault("marked", 2, 1), Fault("updated", 3, 1), Fault("commit", 4, 0))
"""Of two workers it is the second that updates the whole model."""

MAKERS: dict[str, Callable[[Any], Any]] = {
    **{kind.__name__: kind for kind in own.KINDS},
    "Lookahead": lambda params: own.Lookahead(torch.optim.Adam(params, lr=0.02)),
    "Wrapper": lambda params: own.Wrapper(torch.optim.SGD(params, lr=0.1, momentum=0.9)),
    "prodigy": prodigy, "lion": lion, "schedulefree": schedulefree,
}  # fmt: skip


LIBRARIES = {"prodigy": "prodigyopt", "lion": "lion_pytorch", "schedulefree": "schedulefree"}


def job(kind: str, **fields: Any) -> Job:
    if kind in LIBRARIES:
        pytest.importorskip(LIBRARIES[kind])
    make = MAKERS[kind]
    given: dict[str, Any] = {"batch_size": 32, "microbatches": 4, "steps": 6, **fields}
    return Job(model=net, loss=F.cross_entropy, optimizer=lambda model: make(list(model.parameters())),
               data=SAMPLES, **given)  # fmt: skip


@pytest.mark.parametrize("kind", MAKERS)
def test_it_trains_as_in_a_plain_loop(kind: str) -> None:
    hold(job(kind, steps=9), Loop, 0.0)


@pytest.mark.few("Nests", "Aliases", "Replacing", "Lookahead", "prodigy")
@pytest.mark.parametrize("kind", MAKERS)
def test_its_state_outlives_workers(kind: str, tmp_path: Path) -> None:
    hold_to_one_hash(job(kind), tmp_path, deaths=DEATHS)


@pytest.mark.few("prodigy-3", "Aliases-2")
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", MAKERS)
def test_replicas_of_it_have_the_bits_of_the_one_model(kind: str, workers: int, tmp_path: Path) -> None:
    given = job(kind)
    expected, records = undisturbed(given)
    deaths = Script(tmp_path, (Fault("updated", 2, 0), Fault("compute", 4, 0)))
    outcome, found, _ = run(given, workers, device="cpu", phase=deaths)
    raise_failure(outcome)
    assert hash_of(outcome) == expected
    assert [record["loss"] for record in found] == [record["loss"] for record in records]
    assert deaths.struck == 2


@pytest.mark.thorough
@pytest.mark.parametrize("kind", MAKERS)
def test_its_state_is_resumed(kind: str, tmp_path: Path) -> None:
    hold_to_one_hash(job(kind), tmp_path, all_of_them=True, deaths=DEATHS)


def test_a_schedule_sets_its_settings_and_the_optimizer_its_own(tmp_path: Path) -> None:
    given = job(
        "Prodigylike", schedule=lambda optimizer, steps: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    )
    hold(given, Loop, 0.0)
    hold_to_one_hash(given, tmp_path, deaths=DEATHS)


FILES = contextlib.ExitStack()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    with FILES:
        yield


class Filing(own.Own):
    """Writes each norm into a file."""

    def __init__(self, params: Any, path: Path) -> None:
        super().__init__(params)
        self.cache = FILES.enter_context(path.open("w"))

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        self.cache.write(f"{grad.norm()}\n")
        p.sub_(grad)


def warming() -> Any:
    yield from (0.1 * number for number in range(100))


class Generating(own.Own):
    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.rates = warming()

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        p.sub_(grad, alpha=next(self.rates))


def counted() -> Callable[[], int]:
    count = 0

    def more() -> int:
        nonlocal count
        count += 1
        return count

    return more


class Closing(own.Own):
    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.more = counted()

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        p.sub_(grad, alpha=0.1 / self.more())


class Late(own.Own):
    """Keeps what can't be kept, but only after a while."""

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        p.sub_(grad, alpha=0.1)
        if self.steps == 5:
            state["rule"] = lambda value: value


class Idle(own.Own):
    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        pass


class Reaching(own.Own):
    """Changes a parameter that it was not given."""

    def __init__(self, params: Any) -> None:
        super().__init__(params[1:])
        self.other = params[0]

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        p.sub_(grad, alpha=0.1)
        self.other.data.mul_(0.9)


class Closure(own.Own):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        closure()


REFUSED: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "an open file": (
        lambda params, folder: Filing(params, folder / "norms"),
        r"optimizer\.cache \(a _io\.TextIOWrapper\) has changed",
    ),
    "a generator": (lambda params, _: Generating(params), r"optimizer\.rates \(a generator\) has changed"),
    "a closure": (lambda params, _: Closing(params), r"optimizer\.more \(a function\) has changed"),
    "nothing done": (lambda params, _: Idle(params), "must change the parameters .* changed none in 8 steps"),
    "others changed": (lambda params, _: Reaching(params), "changes '0.weight' too"),
    "a closure wanted": (
        lambda params, _: Closure(params), r"steps from gradients alone.*optimizer\.step\(\) raised TypeError",
    ),
    "a function at last": (
        lambda params, _: Late(params), r"optimizer\.state\.0\.weight\.rule \(a function\) has appeared",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(what: str, tmp_path: Path) -> None:
    make, text = REFUSED[what]
    given = replace(job("Lists"), optimizer=lambda model: make(list(model.parameters()), tmp_path))
    with pytest.raises(UnisonoError, match=text):
        raise_failure(run(given)[0])


class Factored(own.Own):
    """Averages what each layer is given, which it sees by a hook, as K-FAC does."""

    def __init__(self, model: nn.Module, into: str) -> None:
        super().__init__(model.parameters())
        self.given = torch.zeros(8)
        layer = model.get_submodule("0")
        if into == "'0'":
            layer.register_forward_pre_hook(lambda _, inputs: self.given.add_(inputs[0].mean(0)))
        else:
            layer.weight.register_post_accumulate_grad_hook(lambda weight: self.given.add_(weight.grad.mean(0)))


@pytest.mark.parametrize("into", ["'0'", "'0.weight'"])
def test_an_optimizer_that_looks_into_the_passes_is_refused(into: str) -> None:
    given = replace(job("Lists"), optimizer=lambda model: Factored(model, into))
    with pytest.raises(UsageError, match=f"has put a hook into {into}, which would see those of one worker alone"):
        run(given)


class Clock:
    """Of two optimizers."""

    ticks = 0


class Ticking(own.Own):
    def __init__(self, params: Any, clock: Clock) -> None:
        super().__init__(params)
        self.clock = clock


def test_two_optimizers_share_nothing() -> None:
    clock = Clock()
    given = replace(job("Lists"), optimizer=lambda model: [Ticking([p], clock) for p in model.parameters()])
    with pytest.raises(UsageError, match="two optimizers may not share an object"):
        run(given)


class Restless(own.Own):
    """Halves its own rate."""

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        group["lr"] *= 0.9
        p.sub_(grad, alpha=group["lr"])


def test_a_setting_has_one_master() -> None:
    alone = replace(job("Lists"), optimizer=lambda model: Restless(list(model.parameters())))
    hold(alone, Loop, 0.0)
    both = replace(alone, schedule=lambda optimizer, steps: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5))
    with pytest.raises(UnisonoError, match="both change 'lr'"):
        raise_failure(run(both)[0])


def test_what_is_evaluated_is_what_is_saved(tmp_path: Path) -> None:
    """schedulefree's averages; training goes on from its own parameters, also when resumed."""
    given = job("schedulefree", evaluation=SAMPLES[:32], evaluate_every=3, best=("min", "loss"))
    hold(given, Loop, 0.0)
    hold_to_one_hash(given, tmp_path, deaths=())
    stopped = unisono.train(replace(given, steps=3), out=tmp_path / "run", workers=2)
    whole = unisono.train(given, out=tmp_path / "whole", workers=1)
    resumed = unisono.train(given, resume=stopped.directory, workers=1)
    assert resumed.parameters_sha256 == whole.parameters_sha256
    saved = whole.model("final").eval()
    inputs, targets = (torch.stack(column) for column in zip(*SAMPLES[:32], strict=True))
    loss = F.cross_entropy(saved(inputs), targets).item()
    assert loss == pytest.approx(whole.history[-1]["evaluation/loss"], rel=1e-6)
    best = min((r for r in whole.history if "evaluation/loss" in r), key=lambda record: record["evaluation/loss"])
    loss = F.cross_entropy(whole.model("best").eval()(inputs), targets).item()
    assert loss == pytest.approx(best["evaluation/loss"], rel=1e-6)
