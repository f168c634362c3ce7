"""The pieces of a JAX model: consecutive operations in program order, each a function of what the one before gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import jax
from flax import nnx

from unisono.errors import UsageError
from unisono.frameworks.jax.forms import Form, Function, is_state
from unisono.job import Job


@dataclass(frozen=True)
class Piece:
    """A piece of a model.

    Attributes:
        name: where it lies in the model.
        apply: what the job wrote: of a flax.nnx module (model, value) → value; else like `Job.forward`.
        number: of one of a linen module or of plain variables, which has a key of its own; None of a flax.nnx module's.
    """

    name: str
    apply: Function
    number: int | None = None

    def call(
        self, form: Form, parameters: Any, state: Any, counts: list[Any], value: Any, key: Any
    ) -> tuple[Any, Any, list[Any]]:
        """(value, new state, new counts) in training mode. Traced.

        In a flax.nnx module every stream has the key that it has in the whole model, and goes on counting.

        Args:
            form: the model.
            parameters, state: its trees.
            counts: how often each stream of random numbers has been drawn from (see `first_counts`).
            value: what the piece before has given; the inputs, for the first one.
            key: the microbatch's.
        """
        apply, number = self.apply, self.number

        def counted(model: nnx.Module, value: Any) -> Any:
            streams = _streams(model)
            for stream, count in zip(streams, counts, strict=True):
                stream.count[...] = count
            return apply(model, value), [stream.count[...] for stream in streams]

        def keyed(variables: Any, value: Any, key: Any, training: bool) -> Any:
            return apply(variables, value, jax.random.fold_in(key, number), training)

        if number is None:
            (value, counts), state = form.call(counted, parameters, state, value, key, True)
        else:
            value, state = form.call(keyed, parameters, state, value, key, True)
        return value, state, counts


def chained(model: Any) -> Any:
    """A list of layers, given as the model, as the `nnx.Sequential` that it stands for; anything else as it is."""
    listed = isinstance(model, Sequence)  # nnx.List is one too, where flax has it
    if listed and all(map(callable, model)) and any(isinstance(layer, nnx.Module) for layer in model):
        return nnx.Sequential(*model)
    return model


def whole(job: Job, model: Any) -> Job:
    """The job with its stages one after another as its forward pass, where it gives stages."""
    if job.stages is None:
        return job
    stages = job.stages
    forward: Function = lambda model, value: reduce(lambda value, stage: stage(model, value), stages, value)  # noqa: E731
    return replace(job, forward=forward if isinstance(model, nnx.Module) else _variables_forward(stages), stages=None)


def _variables_forward(stages: Sequence[Function]) -> Function:
    def forward(variables: Any, value: Any, key: Any, training: bool) -> Any:
        new: dict[str, Any] = {}
        for number, stage in enumerate(stages):
            known = {**variables, **new} if new else variables
            value = stage(known, value, jax.random.fold_in(key, number), training)
            if isinstance(value, tuple) and len(value) == 2 and is_state(value[1], _collections(variables)):
                value, changed = value
                new.update(changed)
        return (value, new) if new else value

    return forward


def _collections(variables: Any) -> dict[str, Any]:
    """What of variables is state (see `VariablesForm`)."""
    parted = isinstance(variables, dict) and "params" in variables
    return {name: value for name, value in variables.items() if name != "params"} if parted else {}


def pieces_of(job: Job, model: Any) -> tuple[Piece, ...]:
    """The model in as many pieces as it can be cut into; nothing where it can't be cut.

    In a chain a piece begins at each layer with a weight matrix. Activations, dropout and normalization belong to the
    layer before them: a cut between would send as much, and each piece is compiled on its own, so that more of them
    only cost time.
    """
    if job.stages is not None and len(job.stages) < 2:
        return ()
    if job.stages is not None:
        keyed = not isinstance(model, nnx.Module)
        return tuple(Piece(f"stages.{n}", stage, n if keyed else None) for n, stage in enumerate(job.stages))
    if job.forward is not None or not _is_chain(model):
        return ()
    layers = list(_layers(model))
    starts = [at for at, (_, layer) in enumerate(layers) if _has_matrix(layer)]
    paths = [path for path, _ in layers]
    groups = [paths[a:b] for a, b in pairwise([0, *starts[1:], len(paths)])]
    pieces = tuple(Piece(".".join(f"layers.{n}" for n in group[0]), _applied(group)) for group in groups)
    return pieces if len(pieces) > 1 else ()


def refusal(job: Job, model: Any) -> UsageError:
    """Why `pieces_of` found nothing, and the way out."""
    if job.stages is not None:
        found = "a job with one stage"
    elif job.forward is not None:
        found = "a job with its own forward, which is one function"
    elif _is_chain(model):
        found = "an nnx.Sequential with fewer than two layers that have a weight matrix"
    else:
        found = f"a {type(model).__name__}, whose order of operations only its own code knows"
    pieces = "(model, value) -> value"
    if not isinstance(model, nnx.Module):
        pieces = "(variables, value, key, training) -> value, or (value, new_state)"
    return UsageError(
        "a JAX model is cut into stages where it is an nnx.Sequential, a list of layers, or a job that gives "
        f"stages=[…]; received {found}. Write its forward pass as Job(stages=[…]), functions {pieces}, each taking "
        "what the one before returns; or train with pipeline=1."
    )


def _is_chain(model: Any) -> bool:
    return isinstance(model, nnx.Sequential) and type(model).__call__ is nnx.Sequential.__call__


def _layers(model: nnx.Sequential, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Any]]:
    """(path, layer) of every layer, those of nested chains in their place."""
    for number, layer in enumerate(model.layers):
        if _is_chain(layer):
            yield from _layers(layer, (*path, number))
        else:
            yield (*path, number), layer


def _has_matrix(layer: Any) -> bool:
    return isinstance(layer, nnx.Module) and any(leaf.ndim > 1 for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))


def _applied(paths: Sequence[tuple[int, ...]]) -> Callable[[Any, Any], Any]:
    def apply(model: nnx.Sequential, value: Any) -> Any:
        layers = [reduce(lambda layer, number: layer.layers[number], path, model) for path in paths]
        return nnx.Sequential(lambda: value, *layers)()  # flax's own rules for tuples and dicts between layers

    return apply


def first_counts(model: Any) -> list[Any]:
    """Of each stream of random numbers of a flax.nnx module, in the order of its graph: nothing drawn yet."""
    streams = _streams(model) if isinstance(model, nnx.Module) else []
    return [jax.numpy.zeros(stream.key.shape, "uint32") for stream in streams]


def _streams(model: nnx.Module) -> list[nnx.RngStream]:
    return [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.RngStream)]
