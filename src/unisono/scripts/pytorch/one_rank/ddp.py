"""DistributedDataParallel's class, whose module's calls are cut into microbatches, and not shared among ranks."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn
from torch.distributed.algorithms.join import JoinHook
from torch.nn.parallel import DistributedDataParallel

import unisono
from unisono.errors import UsageError


class OneRankDistributedDataParallel(DistributedDataParallel):
    """What a script takes for DDP: `module`, `no_sync`, names in `state_dict` and `isinstance` are DDP's.

    Args:
        module: the model.
        device_ids, output_device: as DDP has them; calls are computed where the model is.
        dim: where batches are cut.
        more: of DDP's other arguments all but `mixed_precision` say how ranks exchange gradients, which they do not.
    """

    def __init__(
        self, module: nn.Module, device_ids: Any = None, output_device: Any = None, dim: int = 0, *arguments: Any,
        mixed_precision: Any = None, **more: Any,
    ) -> None:  # fmt: skip
        if mixed_precision is not None:
            raise UsageError(
                f"DDP's mixed_precision casts parameters between ranks; received {mixed_precision!r} under unisono "
                "run, which has one. Use torch.autocast."
            )
        nn.Module.__init__(self)
        self.module = unisono.parallel(module, dim=dim)
        self.device_ids, self.output_device, self.dim = device_ids, output_device, dim
        self.require_backward_grad_sync = True  # `no_sync` sets it
        self.static_graph = False  # Lightning asks

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The module's."""
        return self.module(*inputs, **named)

    def join_hook(self, **more: Any) -> JoinHook:
        """No other rank has more or fewer batches: there is nothing to do for one."""
        return JoinHook()

    @property
    def join_device(self) -> torch.device:
        """The model's."""
        return next(self.parameters()).device

    @property
    def join_process_group(self) -> Any:
        """Whose only member is here."""
        return torch.distributed.group.WORLD

    def register_comm_hook(self, state: object, hook: Any) -> NoReturn:
        """Refused: there is nobody to communicate with."""
        raise UsageError(
            f"a communication hook changes what ranks send each other; received {getattr(hook, '__name__', hook)!r} "
            "under unisono run, which has one rank. Leave register_comm_hook out."
        )

    def _set_static_graph(self) -> None:
        """The graph need not be static."""

    def _get_ddp_logging_data(self) -> dict[str, Any]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]
