"""Transformations of JAX whose state is of every kind, over parameters of any shape."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

if importlib.util.find_spec("jax") is None:
    pytest.skip("JAX is not installed in this environment", allow_module_level=True)

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from everywhere import hold_to_one_hash
from faults import Fault, run
from frameworks.loops.jax import Loop
from held import hold
from unisono import Job
from unisono.errors import UsageError

DEATHS = (Fault("microbatch", 2, 0), Fault("marked", 2, 1), Fault("updated", 3, 1), Fault("commit", 4, 0))
RNG = np.random.default_rng(0)
SAMPLES = list(zip(RNG.normal(size=(96, 8)).astype("float32"), RNG.integers(0, 3, 96), strict=True))


class Scaled(nnx.Module):
    """Logits times a scale that is learnt, and a parameter of no elements."""

    def __init__(self) -> None:
        self.matrix = nnx.Param(jax.random.normal(jax.random.key(0), (8, 3)) * 0.3)
        self.scale, self.none = nnx.Param(jnp.float32(0.5)), nnx.Param(jnp.zeros((0, 5)))

    def __call__(self, inputs: Any) -> Any:
        return inputs @ self.matrix[...] * jnp.exp(self.scale[...]) + self.none[...].sum()


class Plain(Loop):
    """States of any structure are compared by what follows from them."""

    def state(self) -> Any:
        return {}


def loss(outputs: Any, targets: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


class Counted(NamedTuple):
    """Integers that float64 does not hold, a flag, a complex number, and one with as many axes as a count."""

    large: Any
    flag: Any
    turn: Any
    last: Any


def counted() -> Any:
    def init(given: Any) -> Any:
        return Counted(jnp.uint32(2**32 - 3), jnp.bool_(False), jnp.complex64(1j), {"norms": jnp.zeros(3)})

    def update(updates: Any, state: Any, given: Any = None) -> Any:
        norm = jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(updates)))
        rate = jnp.where(state.large % 2 == 1, 0.05, 0.1) * jnp.where(state.flag, 1.0, 0.5) * (1.5 + state.turn.real)
        last = {"norms": jnp.roll(state.last["norms"], 1).at[0].set(norm)}
        scaled = jax.tree.map(lambda value: -rate * value / (1 + last["norms"].max()), updates)
        return scaled, Counted(state.large + jnp.uint32(1), ~state.flag, state.turn * 1j, last)

    return optax.GradientTransformation(init, update)


CHAINS: dict[str, Callable[[], Any]] = {
    "adam": lambda: optax.adam(0.05),
    "momentum": lambda: optax.sgd(0.05, momentum=0.9),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.05)),
    "counted": counted,
    "injected": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=optax.cosine_decay_schedule(0.1, 10)),
    "noise": lambda: optax.chain(optax.add_noise(0.01, 0.5, 0), optax.sgd(0.05)),
    "every second": lambda: optax.MultiSteps(optax.adam(0.05), 2),
    "prodigy": lambda: optax.contrib.prodigy(),
    "schedule-free": lambda: optax.contrib.schedule_free_adamw(0.05, warmup_steps=3),
    "adafactor": lambda: optax.adafactor(0.05),
}


def job(optimizer: Any) -> Job:
    return Job(model=Scaled, loss=loss, optimizer=optimizer, data=SAMPLES, batch_size=32,
               microbatches=4, steps=6)  # fmt: skip


@pytest.mark.few("adam", "counted")
@pytest.mark.parametrize("chain", CHAINS)
def test_it_trains_as_in_a_plain_loop(chain: str) -> None:
    hold(job(CHAINS[chain]()), Plain, 1e-5)


@pytest.mark.few("counted")
@pytest.mark.parametrize("chain", CHAINS)
def test_its_state_outlives_workers(chain: str, tmp_path: Path) -> None:
    sliced = chain in ("adam", "momentum", "injected")
    hold_to_one_hash(job(CHAINS[chain]()), tmp_path, deaths=() if sliced else DEATHS)


@pytest.mark.thorough
@pytest.mark.parametrize("chain", CHAINS)
def test_its_state_is_resumed(chain: str, tmp_path: Path) -> None:
    hold_to_one_hash(job(CHAINS[chain]()), tmp_path, all_of_them=True, deaths=())


def test_what_changes_beside_the_state_is_refused() -> None:
    count = 0

    def update(updates: Any, state: Any, given: Any = None) -> Any:
        nonlocal count
        count += 1
        return jax.tree.map(lambda value: -value / count, updates), state

    with pytest.raises(UsageError, match="all that changes must be in its state"):
        run(job(optax.GradientTransformation(lambda given: optax.EmptyState(), update)))
