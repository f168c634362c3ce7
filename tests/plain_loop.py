"""What the result of a job *is*, as a plain loop: the definition that small runs of every framework are held to.

Nothing of Unisono is used but the `Job`, so that a rule which is broken alike on any number of workers differs from
this. Read it from the top: how samples are shared out, how randomness is seeded, how sums are formed, and `train`,
which puts them together. A framework's own piece is a `Model`; see `tests/frameworks/loops/`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unisono import Job

Array = NDArray[Any]
Name = tuple[int | str, ...]
BLOCK, ROW = 4096, 256
"""Elements of one parameter whose squares are summed into one partial of the norm; of these, elements of a row."""


@dataclass
class Part:
    """What one microbatch gave: Σ loss, weight, (sum, count) of each metric; in training gradients and buffers too."""

    loss: float
    weight: float
    metrics: Sequence[tuple[float, float]]
    gradients: Sequence[Array | None] = ()
    buffers: Sequence[Array] = ()
    samples: int = 0


class Model(Protocol):
    """A framework's piece: its model, its optimizer over the whole of it, and one microbatch at a time.

    Attributes:
        buffers: what the forward pass changes; read and set by the loop.
        rate: the learning rate of the next update; None where only the framework knows it.
    """

    buffers: list[Array]
    rate: float | None

    def seed(self, number: int) -> None:
        """Whatever is drawn next, from any default generator or key, follows from the number."""

    def collate(self, samples: Sequence[Any]) -> Any:
        """(inputs, targets) of pairs."""

    def gradient(self, batch: Any, samples: int) -> Part:
        """A microbatch in training mode."""

    def evaluate(self, batch: Any, samples: int) -> Part:
        """A microbatch in evaluation mode."""

    def update(self, gradients: Sequence[Array | None]) -> None:
        """One step of the optimizer, and then of its schedule; None = a parameter that nothing has used."""

    def saved(self) -> Mapping[str, Array]:
        """Parameters and buffers by the framework's own names."""

    def state(self) -> Mapping[str, Array]:
        """The optimizer's vectors as PARAMETER/KEY, as far as they are compared."""


# -- which samples, in which order, with which seeds -----------------------------------------------------------


def key(*parts: int | str) -> int:
    """The seed of everything random: a number of 63 bits that depends on its name's parts alone.

    >>> key(0, "order", 1)
    3107119615989845548
    """
    text = "\0".join(("i" if isinstance(part, int) else "s") + str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") // 2


def order_of(job: Job, length: int, epoch: int) -> list[int]:
    """The indices of an epoch's samples, in order."""
    if job.order == "sequential":
        return list(range(length))
    generator = np.random.Generator(np.random.PCG64(key(job.seed, "order", epoch)))
    chosen = generator.permutation(length) if job.order == "shuffled" else job.order(epoch, generator)
    return [int(index) for index in chosen]


def cut(indices: Any, size: int) -> list[Any]:
    """Pieces of `size`, filled from the left; the last may be short, and none is empty.

    >>> cut(range(5), 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def batches_of(job: Job, indices: Sequence[int]) -> list[Sequence[int]]:
    """The global batches of an epoch."""
    batches = cut(indices, job.batch_size)
    return [batch for batch in batches if len(batch) == job.batch_size] if job.drop_last else batches


def places(job: Job) -> int:
    """Samples of a microbatch; a short batch is not divided anew, so its last microbatches stay empty."""
    return math.ceil(job.batch_size / job.microbatches)


def read(job: Job, model: Model, data: Any, indices: Sequence[int], sample: Name, batch: Name) -> Any:
    """A microbatch's (inputs, targets): seeded before each sample by its own name, and before `collate`."""
    samples = []
    for index in indices:
        model.seed(key(job.seed, *sample, index))
        samples.append(data[index])
    if job.collate is None:
        return model.collate(samples)
    model.seed(key(job.seed, *batch))
    return job.collate(samples)


# -- sums --------------------------------------------------------------------------------------------------------


def tree_sum(leaves: Sequence[Any]) -> Any:
    """Neighbours are added, then the sums of neighbours, and so on; who has no right neighbour goes up as it is.

    >>> tree_sum([0.1, 0.2, 0.3, 0.4, 0.5]) == ((0.1 + 0.2) + (0.3 + 0.4)) + 0.5
    True
    """
    while len(leaves) > 1:
        leaves = [reduce(add, leaves[at : at + 2]) for at in range(0, len(leaves), 2)]
    return leaves[0]


def in_order(numbers: Iterable[float]) -> float:
    """A sum one after another, in float64. (`sum` is more exact than that in newer Pythons.)"""
    return reduce(add, numbers, 0.0)


def mean_gradients(parts: Sequence[Part]) -> list[Array | None]:
    """(sum along the tree) / (weight of the whole batch), parameter by parameter; None where nothing has used it."""
    weight = in_order(part.weight for part in parts)
    totals = [_total(leaves) for leaves in zip(*(part.gradients for part in parts), strict=True)]
    return [None if total is None else np.asarray(total / total.dtype.type(weight)) for total in totals]


def _total(leaves: Sequence[Array | None]) -> Array | None:
    known = next((leaf for leaf in leaves if leaf is not None), None)
    if known is None:
        return None
    return tree_sum([np.zeros_like(known) if leaf is None else leaf for leaf in leaves])


def norm_of(gradients: Sequence[Array | None]) -> float:
    """√ of the sum of one partial Σ g² a block, in (parameter, block) order."""
    blocks = (block for g in gradients if g is not None for block in cut(g.ravel(), BLOCK))
    return math.sqrt(in_order(float(block_sum(block * block)) for block in blocks))


def block_sum(squares: Array) -> Any:
    """A block's sum by additions of whole vectors: rows one after another, then second halves to first ones.

    A short block is filled up with zeros.

    >>> float(block_sum(np.arange(300.0)))
    44850.0
    """
    rows = np.zeros(BLOCK, squares.dtype)
    rows[: squares.size] = squares
    total = reduce(add, rows.reshape(-1, ROW))
    while total.size > 1:
        total = total[: total.size // 2] + total[total.size // 2 :]
    return total[0]


def clipped(gradients: Sequence[Array | None], norm: float, limit: float) -> list[Array | None]:
    """Gradients whose norm is above the limit are brought down to it (a little below: + 1e-6, as PyTorch does)."""
    factor = min(1.0, limit / (norm + 1e-6))
    return [g if g is None or factor == 1.0 else g * g.dtype.type(factor) for g in gradients]


def mean_buffers(before: Sequence[Array], parts: Sequence[Part]) -> list[Array]:
    """Σ n·b / Σ n along the tree; integers are the first microbatch's; what no microbatch changed stays as it is."""
    samples = sum(part.samples for part in parts)
    after = []
    for old, *found in zip(before, *(part.buffers for part in parts), strict=True):
        if all(value.tobytes() == old.tobytes() for value in found):
            after.append(old)
        elif old.dtype.kind == "f":
            weighted = [value.astype(np.float64) * part.samples for value, part in zip(found, parts, strict=True)]
            after.append((tree_sum(weighted) / samples).astype(old.dtype))
        else:
            after.append(found[0])
    return after


def values_of(job: Job, parts: Sequence[Part]) -> dict[str, float]:
    """Loss and metrics: sums over microbatches in order, divided once."""
    loss = in_order(part.loss for part in parts) / in_order(part.weight for part in parts)
    values = {"loss": loss}
    for at, name in enumerate(job.metrics):
        total, count = (in_order(part.metrics[at][which] for part in parts) for which in (0, 1))
        values[name] = total / count
    return values


# -- the loop ----------------------------------------------------------------------------------------------------


def train(job: Job, make: Callable[[Job, int], Model]) -> tuple[Model, list[dict[str, Any]]]:
    """Train a job.

    Args:
        job: what to train.
        make: (job, steps of the run) → the framework's piece.

    Returns:
        The trained piece and the records of steps and evaluations, in order.
    """
    data = job.data() if callable(job.data) else job.data
    length = len(order_of(job, len(data), 0))
    each_epoch = len(batches_of(job, range(length)))
    steps = job.steps or (job.epochs or 0) * each_epoch
    every = job.evaluate_every or each_epoch
    model = make(job, steps)
    records = []
    for step in range(steps):
        epoch, number = divmod(step, each_epoch)
        batch = batches_of(job, order_of(job, len(data), epoch))[number]
        records.append({"step": step + 1, "epoch": epoch + 1, **train_step(job, model, data, step, epoch, batch)})
        if job.evaluation is not None and ((step + 1) % every == 0 or step + 1 == steps):
            records += [{"step": step + 1, **values} for values in evaluations(job, model)]
    return model, records


def train_step(job: Job, model: Model, data: Any, step: int, epoch: int, batch: Sequence[int]) -> dict[str, Any]:
    """One global batch, one update."""
    before, parts = list(model.buffers), []
    for microbatch, indices in enumerate(cut(batch, places(job))):
        given = read(job, model, data, indices, ("sample", epoch), ("collate", step, microbatch))
        model.buffers = [buffer.copy() for buffer in before]  # every microbatch begins with those of the step before
        model.seed(key(job.seed, "compute", step, microbatch))
        parts.append(model.gradient(given, len(indices)))
        parts[-1].samples = len(indices)
    model.buffers = mean_buffers(before, parts)
    record = {**values_of(job, parts), "learning_rate": model.rate}
    gradients = mean_gradients(parts)
    if job.clip_norm is not None:
        record["gradient_norm"] = norm_of(gradients)
        gradients = clipped(gradients, record["gradient_norm"], job.clip_norm)
    model.seed(key(job.seed, "update", step))
    model.update(gradients)
    return record


def evaluations(job: Job, model: Model) -> Iterator[dict[str, float]]:
    """The values of each evaluation set, under the names of records."""
    given = job.evaluation() if callable(job.evaluation) else job.evaluation
    for name, data in (given if isinstance(given, Mapping) else {"evaluation": given}).items():
        data, parts = data() if callable(data) else data, []
        for wave, positions in enumerate(cut(range(len(data)), places(job) * job.microbatches)):
            for microbatch, indices in enumerate(cut(positions, places(job))):
                place = ("evaluation", name)
                batch = read(job, model, data, indices, place, (*place, wave, microbatch))
                model.seed(key(job.seed, "evaluate", wave, microbatch))
                parts.append(model.evaluate(batch, len(indices)))
        prefix = "evaluation" if name == "evaluation" else f"evaluation/{name}"
        yield {f"{prefix}/{value}": number for value, number in values_of(job, parts).items()}
