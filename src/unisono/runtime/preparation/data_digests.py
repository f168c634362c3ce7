"""Digests of a job's data, by which processes and hosts see whether they read the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from unisono.frameworks.protocol import DataFunctions
from unisono.job import Job
from unisono.memory.packing import dumps
from unisono.partition.keys import key
from unisono.runtime.loader.samples import Datasets, RemoteData, collated, samples_at

LOOKED_AT = 4
"""Samples that are compared when data are opened again."""

MOST = 256
"""Samples of a set that hosts compare: all of a small one."""

MOST_SECONDS = 0.5
"""For a set's samples after the first few."""


def digest_of(data: Datasets, job: Job, functions: DataFunctions) -> str:
    """Digest of some samples, from the first to the last, and of the sets' lengths; "" where samples cannot be had."""
    lengths = [len(data.training), *(len(values) for values in data.evaluation.values())]
    indices = _spread(lengths[0], LOOKED_AT)
    try:
        batch = _batch(data.training, indices, lambda *of: key(job.seed, "look", *of), job, functions)
    except Exception:  # the first step that reads such samples says so, with its place
        return ""
    return blake2b(dumps((lengths, batch), functions.reducers()), digest_size=16).hexdigest()


def _batch(
    values: Any, indices: Sequence[int], seed_of: Callable[..., int], job: Job, functions: DataFunctions
) -> Any:  # fmt: skip
    """Some samples as a microbatch: what a model sees is compared, and not, say, by what path it was found."""
    samples = samples_at(values, indices, seed_of, functions)
    functions.seed_everything(seed_of())
    return collated(job, functions, samples, indices)


def set_digests(data: Datasets, job: Job, functions: DataFunctions) -> dict[str, Any]:
    """What hosts compare of each set: its length, and digests of samples by their numbers.

    Args:
        data: the sets. Of what another host reads there are no digests.
        job: whose.
        functions: the framework's.
    """
    sets = {"the training data": data.training}
    sets |= {f"the evaluation data {name!r}": values for name, values in data.evaluation.items()}
    return {
        name: {"length": len(values), "samples": _samples(values, name, job, functions)}
        for name, values in sets.items()
    }


def _samples(values: Any, name: str, job: Job, functions: DataFunctions) -> dict[str, str]:
    """Digests of as many samples as time allows, spread over the set."""
    found: dict[str, str] = {}
    if isinstance(values, RemoteData):
        return found
    started = time.monotonic()
    for count, index in enumerate(dict.fromkeys((*_spread(len(values), LOOKED_AT), *_spread(len(values), MOST)))):
        if count >= LOOKED_AT and time.monotonic() - started > MOST_SECONDS:
            break
        try:
            batch = _batch(values, [index], lambda *of: key(job.seed, "look", name, *of), job, functions)
        except Exception:  # the first step that reads it says so, with its place
            continue
        found[str(index)] = blake2b(dumps(batch, functions.reducers()), digest_size=6).hexdigest()
    return found


def _spread(length: int, most: int) -> list[int]:
    """So many numbers below a length, from the first to the last.

    >>> _spread(100, 4), _spread(3, 4)
    ([0, 33, 66, 99], [0, 1, 2])
    """
    return sorted({place * (length - 1) // (most - 1) for place in range(most)})
