"""What adapters do alike with a job: refuse fields, call the model, take metrics, describe the model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from unisono.errors import UsageError
from unisono.frameworks.protocol import ModelDescription, Source, StateSpec, TensorSpec
from unisono.gradients.regions import Kind
from unisono.job import Job

CUTS_BY_HAND = ("stages", "split_points")


def refuse(job: Job, fields: Sequence[str], rule: str, way_out: str) -> None:
    """Refuse fields that mean nothing in the job's framework.

    Raises:
        UsageError: one of them is given.
    """
    for name in fields:
        if getattr(job, name) is not None:
            raise UsageError(f"{rule}; received job.{name}. {way_out}.")


def called(model: Callable[..., Any], inputs: Any) -> Any:
    """The model called on a microbatch's inputs: a tuple's members by position, a mapping's by name.

    >>> called(lambda *args, **named: (args, named), (1, 2)), called(lambda *args, **named: (args, named), {"x": 3})
    (((1, 2), {}), ((), {'x': 3}))
    """
    if isinstance(inputs, tuple) and not hasattr(inputs, "_fields"):  # a named tuple is one thing
        return model(*inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(inputs)


def sums(pairs: Any, number: Callable[[Any], float] = float) -> tuple[tuple[float, float], ...]:
    """What functions of metrics gave, (sum, count), as plain numbers.

    >>> sums([(1, 2)])
    ((1.0, 2.0),)
    """
    return tuple((number(total), number(count)) for total, count in pairs)


def description(
    parameters: Sequence[TensorSpec], trained: Collection[int], buffers: Sequence[TensorSpec],
    update: tuple[Kind, StateSpec, Mapping[str, Any]], fingerprint: Mapping[str, str],
    saved: Sequence[Source] | None = None,
) -> ModelDescription:  # fmt: skip
    """A model that one optimizer updates.

    Args:
        parameters, buffers: of the model.
        trained: the numbers of the trained ones.
        update: how it may be cut, the optimizer's state, its settings.
        fingerprint: framework versions and numerics.
        saved: what the saved file holds; unless given each parameter and buffer under its name.
    """
    kind, state, settings = update
    if saved is None:
        saved = [Source(p.name, "parameter" if n in trained else "frozen", n) for n, p in enumerate(parameters)]
        saved += [Source(buffer.name, "buffer", index) for index, buffer in enumerate(buffers)]
    return ModelDescription(
        parameters=tuple(parameters),
        owners=tuple(0 if number in trained else None for number in range(len(parameters))),
        kinds=(kind,),
        states=(state,),
        buffers=tuple(buffers),
        saved=tuple(saved),
        optimizers=(settings,),
        fingerprint=fingerprint,
    )
