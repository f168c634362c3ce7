"""The three forms of a JAX model behind one face: flax.nnx modules, flax.linen modules, plain variables."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx

from unisono.errors import JobError, UsageError
from unisono.frameworks.jax.memory import is_key, path_words
from unisono.frameworks.jobs import called, check_trained, saved_value
from unisono.frameworks.protocol import Array
from unisono.frameworks.unchanged import check_same
from unisono.job import Job

Function = Callable[..., Any]

WAYS_OUT = (
    "A weight that is normed or clipped: compute it in the call, without assigning it. A copy that follows by a moving "
    "average: make it nnx.Variables of another class than nnx.Param, which a call may assign"
)


def form_of(job: Job, model: Any, example: Callable[[], Any]) -> Form:
    """The form of what `job.model()` returned.

    Raises:
        UsageError: plain variables without `forward`, or leaves that can't be trained or kept.
    """
    form: Form
    if isinstance(model, nnx.Module):
        form = NnxForm(model)
    elif isinstance(model, linen.Module):
        form = linen_form(job, model, example)
    else:
        if job.forward is None:
            raise UsageError(
                "a JAX job whose model() returns variables needs job.forward=(variables, inputs, key, training) -> "
                f"outputs, or (outputs, new_state); received forward=None and {type(model).__name__}. A flax.nnx or "
                "flax.linen module needs none."
            )
        form = VariablesForm(model)
    _check(form)
    return form


def _check(form: Form) -> None:
    leaves = jax.tree.leaves(form.parameters)
    if not leaves:
        raise UsageError(
            "nothing to train: the model has no parameters. nnx: use nnx.Param; variables: {'params': …} or a tree "
            "of floating-point arrays."
        )
    for name, leaf in zip(form.names, leaves, strict=True):
        check_trained(
            name, str(leaf.dtype),
            "Keep it float32 and set precision='bfloat16', or put what is not trained beside the parameters: "
            "{'params': …, 'constants': …}",
        )  # fmt: skip
    for name, leaf in zip(form.state_names, jax.tree.leaves(form.state), strict=True):
        if is_key(leaf) or str(leaf.dtype) == "bfloat16":
            raise UsageError(
                f"state must be plain numbers; {name!r} is {leaf.dtype}. Draw randomness from the key that each "
                "microbatch is given (nnx.Rngs, make_rng, forward's key); keep state in float32."
            )


class NnxForm:
    """A flax.nnx module: its `nnx.Param`s are trained, its other variables are state, its streams are reseeded.

    Attributes:
        names, parameters: the trained leaves, by number, and the tree of them that optax sees.
        state_names, state: the other leaves (batch statistics …) and their tree.
    """

    def __init__(self, model: nnx.Module) -> None:
        nnx.pop(model, nnx.Intermediate)
        graph, *leaves = nnx.split(model, nnx.Param, nnx.RngState, ...)
        self.parameters, self._streams, self.state = leaves
        evaluated = nnx.merge(graph, *leaves)
        evaluated.eval()
        self._graphs = {True: graph, False: nnx.graphdef(evaluated)}  # in training each module is as model() left it
        self.names = _dotted(self.parameters)
        self.state_names = _dotted(self.state)
        self._tags = sorted({
            str(stream.key.tag) for _, stream in nnx.iter_graph(model) if isinstance(stream, nnx.RngStream)
        })  # fmt: skip

    def call(
        self, function: Function | None, parameters: Any, state: Any, inputs: Any, key: Any, training: bool
    ) -> tuple[Any, Any]:
        """(outputs, new state) of the job's function, or of the form's own way to call the model. Traced."""
        given = jax.tree.leaves(parameters)  # which the model's variables hold from here on
        streams = jax.tree.map(lambda leaf: leaf, self._streams)  # variables of this trace
        model = nnx.merge(self._graphs[training], parameters, streams, state)
        keys = {tag: jax.random.fold_in(key, number) for number, tag in enumerate(self._tags)}
        nnx.reseed(model, policy="match_shape", **keys)
        outputs = called(model, inputs) if function is None else function(model, inputs)
        nnx.pop(model, nnx.Intermediate)
        graph, after, _, state = nnx.split(model, nnx.Param, nnx.RngState, ...)
        if graph != self._graphs[training]:
            raise JobError(
                "a flax.nnx module must not change its own attributes while it computes (a side effect: it happens "
                "once, when JAX traces); only nnx.Variables may change. Write self.calls = nnx.Variable(...) and "
                "assign its value."
            )
        check_same(self.names, given, jax.tree.leaves(after), WAYS_OUT)
        return outputs, state

    def restored(self, values: Mapping[str, Array]) -> nnx.Module:
        """The model with saved values, as people use it without Unisono."""
        model: nnx.Module = nnx.merge(
            self._graphs[True], _filled(self.parameters, self.names, values), self._streams,
            _filled(self.state, self.state_names, values),
        )  # fmt: skip
        return model


class VariablesForm:
    """A pytree of arrays: {"params": …, other collections} as flax writes it, or all parameters. See `NnxForm`.

    Args:
        variables: the pytree.
        apply: (variables, inputs, key, training) → outputs or (outputs, new state), where the job gives no function.
        beside: what stands before the variables in what people get back (the linen module).
    """

    def __init__(self, variables: Any, apply: Function | None = None, beside: Any = None) -> None:
        self._collections = isinstance(variables, Mapping) and "params" in variables
        self._apply, self._beside = apply, beside
        variables = jax.tree.map(jnp.asarray, variables)
        if self._collections:
            self.parameters = variables["params"]
            self.state = {name: value for name, value in variables.items() if name != "params"}
        else:
            self.parameters, self.state = variables, {}
        prefix = "params/" if self._collections else ""
        self.names = [prefix + name for name in _names(self.parameters, "/")]
        self.state_names = _names(self.state, "/")

    def call(
        self, function: Function | None, parameters: Any, state: Any, inputs: Any, key: Any, training: bool
    ) -> tuple[Any, Any]:
        """See `NnxForm.call`."""
        result = (function or self._apply)(self._joined(parameters, state), inputs, key, training)  # type: ignore[misc]
        if state and isinstance(result, tuple) and len(result) == 2 and is_state(result[1], state):
            return result[0], {**state, **result[1]}
        return result, state

    def _joined(self, parameters: Any, state: Any) -> Any:
        return {"params": parameters, **state} if self._collections else parameters

    def restored(self, values: Mapping[str, Array]) -> Any:
        """See `NnxForm.restored`."""
        variables = self._joined(
            _filled(self.parameters, self.names, values), _filled(self.state, self.state_names, values)
        )
        return variables if self._beside is None else (self._beside, variables)


Form = NnxForm | VariablesForm
"""A model as values and pure functions."""


def is_state(value: Any, state: Mapping[str, Any]) -> bool:
    """Whether a mapping holds whole collections of the state."""
    return (
        isinstance(value, Mapping)
        and set(value) <= set(state)
        and all(jax.tree.structure(value[name]) == jax.tree.structure(state[name]) for name in value)
    )


TRAINING = ("train", "training", "is_training")
DETERMINISTIC = ("deterministic", "use_running_average")


def linen_form(job: Job, module: linen.Module, example: Callable[[], Any]) -> VariablesForm:
    """A flax.linen module, initialised from the first samples."""
    inputs, _ = example()
    accepted = inspect.signature(type(module).__call__).parameters if callable(module) else {}

    def modes(training: bool) -> dict[str, bool]:
        return {
            **{name: training for name in TRAINING if name in accepted},
            **{name: not training for name in DETERMINISTIC if name in accepted},
        }

    def initialise(key: Any) -> Any:
        parameters, dropout = jax.random.split(key)
        streams = {"params": parameters, "dropout": dropout}
        return called(partial(module.init, streams, **modes(False)), inputs)

    def apply(variables: Any, inputs: Any, key: Any, training: bool) -> Any:
        other, dropout = jax.random.split(key)
        streams = {"params": other, "dropout": dropout}  # make_rng of another name falls back to "params"
        mutable = [name for name in variables if name != "params"] if training else []
        return called(
            partial(module.apply, variables, rngs=streams, mutable=mutable or False, **modes(training)), inputs
        )

    variables = linen.meta.unbox(jax.jit(initialise)(jax.random.key(job.seed)))
    return VariablesForm(dict(variables), apply, module)


def _names(tree: Any, separator: str) -> list[str]:
    return [separator.join(path_words(path)) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _dotted(state: Any) -> list[str]:
    """nnx's names: the path of attributes, without the variable's own field."""
    return [".".join(path_words(path[:-1])) for path, _ in jax.tree_util.tree_leaves_with_path(state)]


def _filled(tree: Any, names: list[str], values: Mapping[str, Array]) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    found = [jnp.array(saved_value(values, name, leaf.shape)) for name, leaf in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(structure, found)
