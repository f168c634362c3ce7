"""Several threads a process: operations that add in whatever order threads come are refused."""

from __future__ import annotations

import json
from typing import Any

import mxnet
from mxnet import autograd
from mxnet.gluon import Block

from unisono.errors import JobError
from unisono.frameworks.mxnet import engine

UNORDERED = frozenset(
    {
        "gather_nd",  # what indexing by arrays becomes: x[i]
        "_npi_gather_nd",
        "_npx_gather_nd",
        "scatter_nd",
        "_contrib_BilinearResize2D",
        "_contrib_DeformableConvolution",
        "_contrib_ModulatedDeformableConvolution",
        "_contrib_DeformablePSROIPooling",
    }
)
"""Found by computing each of MXNet 1.9.1's operations with gradients again and again on two threads: these have given
different bits, or share the kernel of one that has."""


def check(total: Any, model: Block) -> None:
    """Refuse, on several threads, a loss that was computed by such operations.

    Args:
        total: the loss, recorded.
        model: whose hybridized blocks record as one operation each.

    Raises:
        JobError: there is one.
    """
    if engine.threads() == 1:
        return
    graphs = [autograd.get_symbol(total)]
    model.apply(lambda block: graphs.extend(getattr(block, "_cached_graph", ())[1:]))
    found = UNORDERED.intersection(set().union(*map(_operations, graphs)))
    if found:
        raise JobError(
            f"on several threads an operation must give the same bits each time; {min(found)} does not in MXNet "
            f"{mxnet.__version__} (indexing x[i] by an array is it). Train with --threads 1 and more workers, or "
            "use another operation: take(x, i), Embedding."
        )


def _operations(graph: Any) -> set[str]:
    return {node["op"] for node in json.loads(graph.tojson())["nodes"]}
