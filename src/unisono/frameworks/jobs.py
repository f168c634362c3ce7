"""What adapters do alike with a job: refuse fields, call the model, take metrics, describe and restore the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unisono.errors import UsageError
from unisono.frameworks.lossrules import check_loss
from unisono.frameworks.protocol import Measured, ModelDescription, Source, StateSpec, TensorSpec
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


def refuse_tf32(job: Job, framework: str) -> None:
    """Refuse the precision that PyTorch alone has.

    Raises:
        UsageError: the job asks for it.
    """
    if job.precision == "tf32":
        raise UsageError(
            f"precision='tf32' says how PyTorch multiplies on GPUs; received it in a job of {framework}. Leave it "
            "out, or write precision='bfloat16'."
        )


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


def measured(
    loss: float, weight: float, pairs: Any, outputs_are_finite: Callable[[], bool | None] = lambda: None,
) -> Measured:  # fmt: skip
    """What a training microbatch gave; see `check_loss` and `sums`, which `pairs` go through once the loss is good."""
    check_loss(loss, weight, outputs_are_finite)
    return Measured(loss, weight, sums(pairs))


def check_trained(name: str, dtype: str, way_out: str) -> None:
    """Refuse to train in half precision.

    Raises:
        UsageError: the parameter's dtype is another than float32 and float64.
    """
    if dtype not in ("float32", "float64"):
        raise UsageError(f"trained parameters are float32 or float64; {name!r} is {dtype}. {way_out}.")


def kind_by_probe(name: str, acts_on_elements: bool) -> Kind:
    """The kind of an optimizer that is known to act element by element, and has been tried."""
    if acts_on_elements:
        return "elementwise"
    warnings.warn(f"{name} does not act element by element here: one slot updates the whole model", stacklevel=2)
    return "whole"


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as plain values, to compare one job with another.

    >>> plain({"lr": 0.1, "dtype": np.float32})
    {'lr': 0.1, 'dtype': "<class 'numpy.float32'>"}
    """
    return {
        name: value if isinstance(value, int | float | str | None) else repr(value) for name, value in settings.items()
    }


Named = Sequence[tuple[str, Any]]
"""(name, tensor) of each."""


def description(
    job: Job, parameters: Named, owners: Sequence[int | None], buffers: Named, dtype: Callable[[Any], str],
    updates: Iterable[tuple[Kind, StateSpec, Mapping[str, Any]]], fingerprint: Mapping[str, str],
    saved: Named | None = None,
) -> ModelDescription:  # fmt: skip
    """A model as the core sees it.

    Args:
        job: the job.
        parameters, buffers: of the model.
        owners: per parameter the index of its optimizer, or None when it is frozen.
        dtype: (tensor) → NumPy's name of its dtype.
        updates: of each optimizer how it may be cut, its state, its settings.
        fingerprint: framework versions and numerics.
        saved: what the saved file holds; unless given each parameter and buffer under its name.
    """
    kinds, states, settings = zip(*updates, strict=True)
    places: list[Any] = [("frozen" if owner is None else "parameter", number) for number, owner in enumerate(owners)]
    places += [("buffer", index) for index in range(len(buffers))]
    held = list(zip((*parameters, *buffers), places, strict=True))
    if saved is None:
        sources = [Source(name, *place) for (name, _), place in held]
    else:
        by_tensor = {id(tensor): place for (_, tensor), place in held}
        sources = [Source(name, *by_tensor[id(tensor)]) for name, tensor in saved]
    specs, buffer_specs = (
        tuple(TensorSpec(name, tuple(tensor.shape), dtype(tensor)) for name, tensor in named)
        for named in (parameters, buffers)
    )
    return ModelDescription(
        parameters=specs,
        owners=tuple(owners),
        kinds=kinds,
        states=states,
        buffers=buffer_specs,
        saved=tuple(sources),
        optimizers=settings,
        fingerprint={"numpy": np.__version__, "device": "cpu", "precision": job.precision, **fingerprint},
    )


def saved_value(values: Mapping[str, Any], name: str, shape: Sequence[int] | None) -> Any:
    """The saved value of a tensor.

    Args:
        values: all saved ones.
        name: the tensor's.
        shape: its shape in the model; None = not known yet.

    Raises:
        UsageError: there is none, or it has another shape.

    >>> saved_value({"w": __import__("numpy").ones(2)}, "w", (2,))
    array([1., 1.])
    """
    value = values.get(name)
    there = None if value is None else tuple(value.shape)
    if there is None or (shape is not None and there != tuple(shape)):
        here = "a tensor" if shape is None else list(shape)
        raise UsageError(
            f"saved parameters must fit the job's model; {name!r} is {here} here and "
            f"{'nothing' if there is None else list(there)} in the file. Use the job that the run was made with."
        )
    return value
