"""What a call leaves in buffers: of those that changed the average over the samples, as a job's step does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from unisono.scripts.tree_sums import summed


def combine(
    buffers: Sequence[tuple[nn.Module, str]], changed: Sequence[Sequence[torch.Tensor | None]], pieces: Sequence[range]
) -> None:
    """Buffers become Σ nₘ·bₘ / Σ nₘ along the tree; integer ones the first microbatch's; unchanged ones stay.

    Args:
        buffers: the script's.
        changed: of each microbatch each buffer's value, None where it is unchanged.
        pieces: the samples of each microbatch.
    """
    samples = sum(map(len, pieces))
    for place, (module, name) in enumerate(buffers):
        values = [each[place] for each in changed]
        if all(value is None for value in values) or not samples:
            continue
        buffer = module._buffers[name]
        assert buffer is not None
        filled = [buffer if value is None else value for value in values]
        if buffer.is_floating_point() and len(pieces) > 1:
            weighted = [_wide(value) * len(piece) for value, piece in zip(filled, pieces, strict=True)]
            buffer.copy_(summed(weighted, torch.add) / samples)
        else:
            buffer.copy_(filled[0])


def _wide(value: torch.Tensor) -> torch.Tensor:
    return (value.cpu() if value.device.type == "mps" else value).double()  # which MPS has not
