"""Block norms on any device: the bits of `gradients.norms`, for only whole vectors are added."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from unisono.gradients.norms import ROW
from unisono.gradients.regions import BLOCK


def block_sums(values: Tensor) -> Tensor:
    """Σ x² of each block of a parameter, as float64.

    Args:
        values: its elements, in one dimension.

    >>> block_sums(torch.ones(BLOCK + 3)).tolist()
    [4096.0, 3.0]
    """
    blocks = -(-values.numel() // BLOCK)
    squares = values.new_zeros(blocks * BLOCK)
    torch.mul(values, values, out=squares[: values.numel()])
    rows = squares.view(blocks, -1, ROW)
    total = reduce(torch.add, rows.unbind(1))
    while total.shape[-1] > 1:
        half = total.shape[-1] // 2
        total = total[:, :half] + total[:, half:]
    return total[:, 0].to(torch.float64)
