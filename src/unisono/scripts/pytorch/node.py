"""A call as one node of the script's graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from unisono.errors import UsageError


class Node(torch.autograd.Function):
    """Outputs that are there already, and a backward pass that somebody else computes."""

    @staticmethod
    def forward(
        ctx: Any,
        outputs: Sequence[torch.Tensor],
        with_grad: Sequence[bool],
        backward: Callable[..., Any],
        *sources: Any,
    ) -> tuple[torch.Tensor, ...]:
        """See `torch.autograd.Function`.

        Args:
            ctx: what is kept.
            outputs: the call's.
            with_grad: which of them a gradient flows back through.
            backward: (gradients of the outputs, whether the graph is kept) → gradients of the sources.
            sources: tensors that the outputs depend on.
        """
        ctx.call = backward
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*[output for output, flows in zip(outputs, with_grad, strict=True) if not flows])
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[Any, ...]:
        """See `torch.autograd.Function`."""
        if torch.is_grad_enabled():
            raise UsageError(
                "gradients of a parallel call have no graph of their own; received a backward pass with "
                "create_graph=True. Put what needs it (a gradient penalty) into a function under @unisono.parallel, "
                "with the model and torch.autograd.grad inside."
            )
        keep = torch._C._autograd._get_current_graph_task_keep_graph()
        return (None, None, None, *ctx.call(gradients, keep))
