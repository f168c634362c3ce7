"""Image recognition in Keras 3, on any of its backends: the residual network and the data of `images.py`.

unisono train examples/images_keras.py                               Fashion-MNIST, downloaded once
unisono train examples/images_keras.py data=FOLDER                   MNIST's or CIFAR-10's files, or pictures:
                                                                     FOLDER/{train,dev,test}/CLASS/*.png or *.jpg
unisono predict examples/images_keras.py RUN_DIR PICTURE.png --at best
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
from corpora.files import folder
from corpora.pictures import FASHION_CLASSES, Augmented, picture, pictures
from keras import layers, optimizers

from unisono import Job


def collate(samples: Sequence[tuple[np.ndarray, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (batch, height, width, channels) from 0 to 1 and their classes."""
    images, classes = zip(*samples, strict=True)
    return np.stack(images).astype("float32") / 255, np.array(classes)


def convolution(width: int, size: int, stride: int, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """A normed convolution."""
    outputs = layers.Conv2D(width, size, stride, padding="same", use_bias=False)(inputs)
    return layers.BatchNormalization(momentum=0.9)(outputs)


def block(width: int, inputs: keras.KerasTensor) -> keras.KerasTensor:
    """Two normed convolutions beside a shortcut; they halve the picture."""
    body = layers.ReLU()(convolution(width, 3, 2, inputs))
    return layers.ReLU()(convolution(width, 3, 1, body) + convolution(width, 1, 2, inputs))


def resnet(shape: tuple[int, int, int], classes: int, width: int) -> keras.Model:
    """Pixels normed, a convolution, three blocks of growing width, the mean over the picture, a classifier."""
    inputs = keras.Input(shape)
    hidden = layers.BatchNormalization(momentum=0.9, center=False, scale=False)(inputs)
    hidden = layers.ReLU()(convolution(width, 3, 1, hidden))
    for factor in (1, 2, 4):
        hidden = block(factor * width, hidden)
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(hidden)))


def optimizer(lr: float, steps: int) -> optimizers.Optimizer:
    """SGD with momentum; the learning rate rises over a fifth of the steps, then falls along a cosine."""
    rising = max(1, steps // 5)
    falling = max(1, steps - rising)
    rate = optimizers.schedules.CosineDecay(lr / 25, falling, warmup_target=lr, warmup_steps=rising)
    return optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4)


def recognized(shape: tuple[int, int, int], names: Sequence[str], model: keras.Model, path: str) -> str:
    """What a picture file shows, and how sure the model is of it."""
    images, _ = collate([(picture(Path(path), shape), 0)])
    chances = keras.ops.convert_to_numpy(keras.ops.softmax(model(images)))[0]
    return f"{names[chances.argmax()]}  {chances.max():.3f}"


def job(
    data: str = "", epochs: int = 15, batch_size: int = 256, lr: float = 0.2, width: int = 32, most: int = 2,
    mirror: bool = True,
) -> Job:  # fmt: skip
    """The classifier; `most`: pixels by which a picture is moved."""
    sets, names = pictures(folder("fashion_mnist", data))
    return Job(
        model=partial(resnet, sets["train"].shape, len(names), width),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=partial(optimizer, lr),
        data=Augmented(sets["train"], most, mirror),
        collate=collate,
        evaluation={name: sets[name] for name in ("dev", "test")},
        metrics={"accuracy": keras.metrics.SparseCategoricalAccuracy()},
        best=("max", "dev/accuracy"),
        batch_size=batch_size,
        microbatches=8,
        epochs=epochs,
        infer=partial(recognized, sets["train"].shape, names if data else FASHION_CLASSES),
    )
