"""A gluon block's parameters: their names, their first values, and arrays over memory that is not MXNet's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mxnet
import numpy as np
from mxnet import autograd
from mxnet.gluon import Block, Parameter
from mxnet.gluon.utils import shape_is_known
from mxnet.ndarray import NDArray

from unisono.errors import UsageError
from unisono.frameworks.jobs import check_trained
from unisono.frameworks.mxnet.seeding import seed_everything
from unisono.frameworks.protocol import Array
from unisono.partition.keys import key

WEIGHT_NAMES = ("weight", "bias", "gamma", "beta")
"""How MXNet's own initializers tell a weight from a statistic (`running_mean`): by the end of its name."""


def dtype_name(parameter: Parameter) -> str:
    """NumPy's name of the dtype."""
    return str(np.dtype(parameter.dtype).name)


def over(array: Array) -> Any:
    """An MXNet array over an array's own memory: what one writes, the other reads."""
    kind = mxnet.np.ndarray if mxnet.util.is_np_array() else NDArray
    return mxnet.nd.from_numpy(array.view(), zero_copy=True, array_cls=kind)  # it makes the view read-only


def over_legacy(array: Array) -> Any:
    """The same as an `mxnet.nd` array, which is what optimizers work on."""
    return mxnet.nd.from_numpy(array.view(), zero_copy=True)


def names(model: Block) -> dict[str, Parameter]:
    """Every name that `save_parameters` gives; one that is shared by several blocks has several.

    Raises:
        UsageError: a parameter that MXNet itself would not save.
    """
    found: dict[str, Parameter] = dict(model._collect_params_with_prefix())
    held = {id(parameter) for parameter in found.values()}
    for name, parameter in model.collect_params().items():
        if id(parameter) not in held:
            raise UsageError(
                f"a block's parameters must be its attributes, or MXNet would not save them; {name!r} is none. "
                "Write self.weight = self.params.get('weight', …)."
            )
    return found


def initialise(model: Block, seed: int, example: Callable[[], Any], forward: Callable[[Any], Any]) -> None:
    """Give every parameter its first value, as `initialize()` and a first forward pass would.

    Args:
        model: the block.
        seed: the job's.
        example: gives the (inputs, targets) of one sample.
        forward: the model on inputs.
    """
    held = list(model.collect_params().values())
    waiting = [parameter for parameter in held if parameter._data is None]
    if not waiting:
        return
    drawn = any(np.ptp(p.data().asnumpy()) for p in held if p._data is not None)  # zeros and ones are not
    inputs = None if all(shape_is_known(p.shape) for p in waiting) else example()[0]
    seed_everything(key(seed, "initialise") if drawn else seed)  # else: what a plain script's first values are
    for parameter in waiting:
        if not parameter._deferred_init:
            parameter.initialize()
    if inputs is not None:
        with autograd.pause():
            forward(inputs)
    for name, parameter in names(model).items():
        if parameter._data is None:
            raise UsageError(
                f"every parameter's shape must be known once a sample has passed; {name!r} of shape "
                f"{parameter.shape} was not reached. Give its layer in_units= (or in_channels=), or take it out."
            )


def check_static(block: Block) -> None:
    """Refuse a compiled graph that remembers where its gradients go.

    Raises:
        UsageError: `static_shape` was asked for.
    """
    if dict(getattr(block, "_flags", ())).get("static_shape"):
        raise UsageError(
            f"every microbatch leaves its gradients elsewhere, and the last of a batch may be short; {block.name!r} "
            "is hybridized for one shape and place. Leave static_shape=True out; static_alloc=True may stay."
        )


def check(name: str, parameter: Parameter) -> None:
    """Refuse what cannot lie in shared memory or be trained there.

    Raises:
        UsageError: sparse, of several devices, or of a half precision.
    """
    if parameter._stype != "default" or parameter._grad_stype != "default":
        raise UsageError(
            f"parameters and their gradients are dense; {name!r} is {parameter._stype} with a "
            f"{parameter._grad_stype} gradient. Leave sparse_grad=True out."
        )
    if parameter.list_ctx() != [mxnet.cpu(0)]:
        raise UsageError(
            f"a parameter lies on the CPU once, and Unisono spreads the work; {name!r} lies on "
            f"{parameter.list_ctx()}. Leave ctx= out."
        )
    if parameter.grad_req != "null":
        check_trained(name, dtype_name(parameter), "Leave cast() out")


def is_buffer(name: str, parameter: Parameter) -> bool:
    """Whether it is the forward pass that changes it (BatchNorm's statistics), rather than a frozen weight."""
    return parameter.grad_req == "null" and not name.endswith(WEIGHT_NAMES)
