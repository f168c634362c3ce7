"""Models whose parameters lie in parts on several ranks: one rank has nobody to share them with."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from unisono.errors import UsageError


def refuse_shards(replace: Callable[[Any, Any], None]) -> None:
    """Refuse FSDP, now that it has been imported.

    Args:
        replace: has all of torch name another object than one.
    """
    fsdp = sys.modules["torch.distributed.fsdp"]
    fsdp.FullyShardedDataParallel.__init__ = _refused(fsdp.FullyShardedDataParallel.__init__, "FSDP")
    if hasattr(fsdp, "fully_shard"):
        replace(fsdp.fully_shard, _refused(fsdp.fully_shard, "fully_shard"))


def _refused(shard: Callable[..., Any], name: str) -> Callable[..., NoReturn]:
    @functools.wraps(shard)
    def refuse(*arguments: Any, **more: Any) -> NoReturn:
        raise UsageError(
            f"a sharded model lies in parts on several ranks; received {name} under unisono run, which has one. Use "
            "DistributedDataParallel, or model = unisono.parallel(model): workers share one copy of the parameters."
        )

    return refuse
