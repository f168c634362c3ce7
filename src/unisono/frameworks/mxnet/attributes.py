"""Plain attributes of an MXNet model and of its loss: see `unisono.frameworks.attributes`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import mxnet
from mxnet import autograd, gluon

from unisono.frameworks.attributes import Attributes, content, shapes

_COMMON = frozenset(vars(gluon.HybridBlock()))


def attributes_of(model: gluon.Block, loss: Any) -> Attributes:
    """Those of the blocks that are not gluon's own, and of a loss that is one."""
    holders: dict[str, Any] = {}
    _collect("", model, holders)
    if isinstance(loss, gluon.Block):
        _collect("loss", loss, holders)
    return Attributes(holders, _COMMON, _content, _content, "grad_req='null'")


def given(inputs: Any) -> Hashable:
    """What a forward pass is given, but for the values of arrays."""
    return shapes(inputs), autograd.is_training()


def _collect(name: str, block: gluon.Block, holders: dict[str, Any]) -> None:
    if not type(block).__module__.startswith("mxnet."):
        holders[name] = block
    for child, value in block._children.items():
        _collect(f"{name}.{child}".lstrip("."), value, holders)


def _content(value: Any) -> Any:
    if isinstance(value, gluon.Block | gluon.Parameter | gluon.ParameterDict):
        return id(value)
    if isinstance(value, mxnet.nd.NDArray):
        return content(value.asnumpy())
    return None
