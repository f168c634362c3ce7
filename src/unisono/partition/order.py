"""The order of an epoch: a function of (seed, epoch) and the job's `order` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unisono.errors import UsageError
from unisono.partition.keys import key
from unisono.values.bounds import whole

Indices = NDArray[np.int64]
OrderFunction = Callable[[int, np.random.Generator], Any]
Order = str | OrderFunction


def epoch_order(order: Order, length: int, seed: int, epoch: int) -> Indices:
    """The sample indices of an epoch, in order.

    Args:
        order: "shuffled", "sequential" or (epoch, generator) → indices.
        length: how many samples the data hold.
        seed: the job's seed.
        epoch: counted from 0.

    Returns:
        int64 indices into the data.

    Raises:
        UsageError: an unknown order, or indices that are not within the data.

    >>> epoch_order("sequential", 3, 0, 5)
    array([0, 1, 2])
    """
    if order == "sequential":
        return np.arange(length, dtype=np.int64)
    generator = np.random.Generator(np.random.PCG64(key(seed, "order", epoch)))
    if order == "shuffled":
        return generator.permutation(length)
    if not callable(order):
        raise UsageError(
            f"order must be 'shuffled', 'sequential' or a function (epoch, rng) -> indices; received {order!r}."
        )
    indices = np.asarray(order(epoch, generator))
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer) or indices.size == 0:
        raise UsageError(
            f"order(epoch, rng) must return a sequence of integers; received shape {indices.shape} of {indices.dtype}."
        )
    if indices.min() < 0 or indices.max() >= length:
        raise UsageError(
            f"order(epoch, rng) must return indices from 0 to {length - 1}; received "
            f"{indices.min()} to {indices.max()} in epoch {epoch}."
        )
    return indices.astype(np.int64)


@dataclass(frozen=True)
class _ByLength:
    lengths: tuple[int, ...]
    batch_size: int

    def __call__(self, epoch: int, generator: np.random.Generator) -> Indices:
        lengths = np.asarray(self.lengths)
        noise = generator.permutation(lengths.size)
        ordered = noise[np.argsort(lengths[noise], kind="stable")]
        whole = ordered.size // self.batch_size * self.batch_size
        batches = ordered[:whole].reshape(-1, self.batch_size)
        return np.concatenate([generator.permutation(batches).ravel(), ordered[whole:]])


def by_length(lengths: Sequence[int], batch_size: int) -> OrderFunction:
    """Batches of samples of like length, in random order: less padding.

    Args:
        lengths: each sample's length.
        batch_size: the job's global batch size.

    Raises:
        UsageError: it is no such size.
    """
    return _ByLength(tuple(int(length) for length in lengths), whole("batch_size", batch_size))


@dataclass(frozen=True)
class _Stratified:
    labels: tuple[Any, ...]

    def __call__(self, epoch: int, generator: np.random.Generator) -> Indices:
        labels = np.asarray(self.labels)
        places = np.empty(labels.size)
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            shift = generator.random()
            places[generator.permutation(members)] = (np.arange(members.size) + shift) / members.size
        return np.argsort(places, kind="stable").astype(np.int64)


def stratified(labels: Sequence[Any]) -> OrderFunction:
    """Every stretch of the epoch holds the classes in their proportions.

    Args:
        labels: each sample's class.
    """
    return _Stratified(tuple(labels))


@dataclass(frozen=True)
class _Weighted:
    weights: tuple[float, ...]

    def __call__(self, epoch: int, generator: np.random.Generator) -> Indices:
        weights = np.asarray(self.weights, dtype=np.float64)
        return generator.choice(weights.size, size=weights.size, p=weights / weights.sum()).astype(np.int64)


def weighted(weights: Sequence[float]) -> OrderFunction:
    """Samples drawn with replacement, each with its weight.

    Args:
        weights: each sample's weight, not negative.

    Raises:
        UsageError: a negative weight, one that is not finite, or none above zero.

    >>> weighted([1.0, -1.0])
    Traceback (most recent call last):
    unisono.errors.UsageError: weights must be finite, at least 0, and not all 0; weight 1 is -1.0.
    """
    values = tuple(float(weight) for weight in weights)
    wrong = [f"weight {number} is {value}" for number, value in enumerate(values) if not 0 <= value < math.inf]
    total = sum(values)
    if wrong or not 0 < total < math.inf:
        found = wrong[0] if wrong else f"the sum of the {len(values)} is {total}"
        raise UsageError(f"weights must be finite, at least 0, and not all 0; {found}.")
    return _Weighted(values)
