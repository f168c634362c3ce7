"""Handwritten digits with MXNet's gluon: the network and the data of digits_torch.py.

unisono train examples/digits_mxnet.py
unisono verify examples/digits_mxnet.py
"""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
from mxnet import gluon
from mxnet.gluon import nn
from sklearn.datasets import load_digits

from unisono import Job

TEST = 360


def make() -> Any:
    """Two convolutions with BatchNorm, then a classifier with dropout; their shapes come from the first sample."""
    net = nn.HybridSequential()
    net.add(
        nn.Conv2D(16, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"),
        nn.Conv2D(32, 3, padding=1), nn.BatchNorm(), nn.Activation("relu"), nn.MaxPool2D(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Dense(10),
    )  # fmt: skip
    net.initialize(mx.init.Xavier())
    net.hybridize()
    return net


def split(test: bool) -> Any:
    """The training or the test images, drawn apart with a fixed seed."""
    bunch: Any = load_digits()
    images = bunch.images[:, None].astype("float32") / 16
    shuffled = np.random.default_rng(0).permutation(len(images))
    chosen = shuffled[:TEST] if test else shuffled[TEST:]
    return gluon.data.ArrayDataset(images[chosen], bunch.target[chosen])


def job(lr: float = 3e-3, epochs: int = 15) -> Job:
    """The digits job."""
    return Job(
        model=make,
        loss=gluon.loss.SoftmaxCrossEntropyLoss(),
        optimizer=mx.optimizer.Adam(learning_rate=lr),
        data=lambda: split(test=False),
        batch_size=128,
        microbatches=8,
        epochs=epochs,
        evaluation=lambda: split(test=True),
        metrics={"accuracy": mx.metric.Accuracy()},
    )
