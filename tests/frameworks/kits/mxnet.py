"""MXNet for the contract suite: the same few jobs that every framework's kit makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mxnet
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

from frameworks.kits.samples import CLASSES, FEATURES, Pairs, arrays
from unisono import Job
from unisono.frameworks.mxnet.data import Data

Data().pin(1)  # before anything here computes: as the workers do


def sequential(*layers: Any) -> Any:
    model = nn.HybridSequential()
    model.add(*layers)
    model.hybridize()
    return model


def mlp() -> Any:
    """20-33-5."""
    return sequential(nn.Dense(33, activation="relu", in_units=FEATURES), nn.Dense(CLASSES, in_units=33))


def cnn() -> Any:
    """A 3 × 3 convolution with 8 channels over 4 × 5 pixels, then a dense layer; shapes come from the first sample."""
    image = nn.HybridLambda(lambda F, inputs: F.reshape(inputs, (-1, 1, 4, 5)))
    return sequential(image, nn.Conv2D(8, 3, padding=1, activation="relu"), nn.Dense(CLASSES))


def wild() -> Any:
    """Batch normalization and dropout, and enough parameters for several blocks."""
    return sequential(nn.Dense(500), nn.BatchNorm(), nn.Activation("relu"), nn.Dropout(0.2), nn.Dense(CLASSES))


MODELS: dict[str, Callable[[], Any]] = {"mlp": mlp, "cnn": cnn, "wild": wild}


class Unknown(mxnet.optimizer.Adam):
    """A class that Unisono does not know."""


OPTIMIZERS: dict[str, Any] = {
    "sgd": mxnet.optimizer.SGD(learning_rate=0.05, momentum=0.9),
    "adam": mxnet.optimizer.Adam(learning_rate=0.01),
    "unknown": Unknown(learning_rate=0.01),
}
"""`Job.optimizer` for SGD (0.05, momentum 0.9), Adam (0.01), and one that only a whole-model update serves."""


def warming(steps: int) -> Any:
    schedule = mxnet.lr_scheduler.PolyScheduler(steps, base_lr=0.01, warmup_steps=steps + 1)
    return mxnet.optimizer.Adam(learning_rate=0.01, lr_scheduler=schedule)


SCHEDULED: dict[str, Any] = {"optimizer": warming}
"""Changes of a job that make its learning rate rise from step to step."""

cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()


def weighted_loss(outputs: Any, targets: Any) -> tuple[Any, Any]:
    """(Σ loss, number) of the samples whose class is not 0."""
    chosen = (targets != 0).astype("float32")
    return (cross_entropy(outputs, targets) * chosen).sum(), chosen.sum()


def accuracy(outputs: Any, targets: Any) -> tuple[Any, int]:
    """(right ones, all of them)."""
    return (outputs.argmax(1).astype("int64") == targets).sum(), len(targets)


def first_class(model: Any, inputs: Any) -> Any:
    """`Job.predict`: class 0 for every sample."""
    outputs = nd.zeros((len(inputs), CLASSES))
    outputs[:, 0] = 1
    return outputs


def make(model: str = "mlp", **changes: Any) -> Job:
    """A job of six steps over 100 samples in batches of 32: the fourth batch is short and leaves microbatches empty."""
    fields: dict[str, Any] = {
        "model": MODELS[model], "loss": cross_entropy, "optimizer": OPTIMIZERS["sgd"], "data": Pairs,
        "batch_size": 32, "microbatches": 8, "steps": 6,
    }  # fmt: skip
    return Job(**{**fields, **changes})


def plain(model: str, optimizer: str, steps: int) -> dict[str, Any]:
    """Full-batch training with gluon's Trainer and no Unisono: the parameters by their saved names."""
    mxnet.random.seed(0)
    trained = MODELS[model]()
    trained.initialize()
    inputs, targets = (nd.array(array, dtype=array.dtype) for array in arrays())
    trained(inputs)
    settings = {"sgd": {"learning_rate": 0.05, "momentum": 0.9}, "adam": {"learning_rate": 0.01}}[optimizer]
    trainer = gluon.Trainer(trained.collect_params(), optimizer, settings, kvstore=None)
    for _ in range(steps):
        with autograd.record():
            losses = cross_entropy(trained(inputs), targets)
        losses.backward()
        trainer.step(len(inputs))
    return {name: value.data().asnumpy() for name, value in trained._collect_params_with_prefix().items()}


def outputs_of(model: Any, inputs: Any) -> Any:
    """What a restored model answers, as an array."""
    return model(nd.array(inputs)).asnumpy()
