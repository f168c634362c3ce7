"""Random operations that give what does not depend on where in a batch a sample is: probes compare what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_DRAWN = 0.5
"""Instead of a number that is drawn: it keeps a `rand() < p` as it is for all samples alike."""

_aten = torch.ops.aten


class Steady(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A block in which PyTorch draws the same number always, orders nothing anew and drops nothing.

    >>> with Steady():
    ...     torch.randn(2), torch.randint(3, 9, (2,)), torch.randperm(3), torch.dropout(torch.ones(2), 0.5, True)
    (tensor([0.5000, 0.5000]), tensor([3, 3]), tensor([0, 1, 2]), tensor([2., 2.]))
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:  # fmt: skip
        """See `TorchDispatchMode`."""
        named = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
        named |= kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs or {})
        if "dropout_p" in named:  # attention's
            return func(**named | {"dropout_p": 0.0})
        if func.overloadpacket is _aten.native_dropout:
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        drawn = func(*args, **kwargs or {})
        if not isinstance(drawn, torch.Tensor):
            return drawn
        if func.overloadpacket is _aten.randperm:
            return drawn.copy_(torch.arange(len(drawn)))
        if func.overloadpacket in (_aten.bernoulli, _aten.bernoulli_):
            return drawn.fill_(1)
        if func.overloadpacket is _aten.multinomial or not drawn.is_floating_point():
            return drawn.fill_(named.get("low", named.get("from", 0)) or 0)
        return drawn.fill_(_DRAWN)
