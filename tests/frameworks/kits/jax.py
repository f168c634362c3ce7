"""JAX for the contract suite (flax.nnx): the same few jobs that every framework's kit makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unisono.frameworks.jax.data import Data

Data().pin(1)  # before anything computes in the tests' process

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402

from frameworks.kits.samples import CLASSES, FEATURES, Pairs, arrays  # noqa: E402
from unisono import Job  # noqa: E402


class Mlp(nnx.Module):
    """20-33-5."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(FEATURES, 33, rngs=rngs)
        self.last = nnx.Linear(33, CLASSES, rngs=rngs)

    def __call__(self, inputs: Any) -> Any:
        return self.last(nnx.relu(self.first(inputs)))


class Cnn(nnx.Module):
    """A 3 × 3 convolution with 8 channels over 4 × 5 pixels, then a dense layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.convolution = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.last = nnx.Linear(160, CLASSES, rngs=rngs)

    def __call__(self, inputs: Any) -> Any:
        hidden = nnx.relu(self.convolution(inputs.reshape(-1, 4, 5, 1)))
        return self.last(hidden.reshape(len(hidden), -1))


class Wild(nnx.Module):
    """Batch normalization and dropout, and enough parameters for several blocks."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(FEATURES, 500, rngs=rngs)
        self.norm = nnx.BatchNorm(500, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(500, CLASSES, rngs=rngs)

    def __call__(self, inputs: Any) -> Any:
        return self.last(self.dropout(nnx.relu(self.norm(self.first(inputs)))))


MODELS: dict[str, Callable[[], Any]] = {
    "mlp": lambda: Mlp(nnx.Rngs(0)), "cnn": lambda: Cnn(nnx.Rngs(0)), "wild": lambda: Wild(nnx.Rngs(0)),
}  # fmt: skip

sgd = optax.sgd(0.05, momentum=0.9)
adam = optax.adam(0.01)

OPTIMIZERS: dict[str, Any] = {
    "sgd": sgd, "adam": adam,
    "unknown": optax.GradientTransformation(adam.init, lambda *arguments: adam.update(*arguments)),
}  # fmt: skip
"""`Job.optimizer` for SGD (0.05, momentum 0.9), Adam (0.01), and one that only a whole-model update serves."""

SCHEDULED: dict[str, Any] = {
    "optimizer": lambda steps: optax.adam(optax.linear_schedule(0.01 / steps, 0.01, steps)),
}
"""Changes of a job that make its learning rate rise from step to step."""


def cross_entropy(outputs: Any, targets: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def weighted_loss(outputs: Any, targets: Any) -> tuple[Any, Any]:
    """(Σ loss, number) of the samples whose class is not 0."""
    counted = targets != 0
    return jnp.where(counted, cross_entropy(outputs, targets), 0).sum(), counted.sum()


def accuracy(outputs: Any, targets: Any) -> tuple[Any, int]:
    """(right ones, all of them)."""
    return (outputs.argmax(1) == targets).sum(), len(targets)


def first_class(model: nnx.Module, inputs: Any) -> Any:
    """`Job.predict`: class 0 for every sample."""
    return jnp.zeros((len(inputs), CLASSES)).at[:, 0].set(1)


def make(model: Any = "mlp", **changes: Any) -> Job:
    """A job of six steps over 100 samples in batches of 32: the fourth batch is short and leaves microbatches empty."""
    fields: dict[str, Any] = {
        "model": MODELS.get(model, model), "loss": cross_entropy, "optimizer": sgd, "data": Pairs,
        "batch_size": 32, "microbatches": 8, "steps": 6,
    }  # fmt: skip
    return Job(**{**fields, **changes})


def plain(model: str, optimizer: str, steps: int) -> dict[str, Any]:
    """Full-batch training with an ordinary loop and no Unisono: the parameters by their saved names."""
    graph, parameters = nnx.split(MODELS[model]())
    inputs, targets = arrays()

    @jax.jit
    def step(parameters: Any, state: Any) -> Any:
        gradients = jax.grad(lambda p: cross_entropy(nnx.merge(graph, p)(inputs), targets).mean())(parameters)
        updates, state = OPTIMIZERS[optimizer].update(gradients, state, parameters)
        return optax.apply_updates(parameters, updates), state

    state = OPTIMIZERS[optimizer].init(parameters)
    for _ in range(steps):
        parameters, state = step(parameters, state)
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(parameters)}


def outputs_of(model: Any, inputs: Any) -> Any:
    """What a restored model answers, as an array."""
    model.eval()
    return np.asarray(model(jnp.asarray(inputs)))
