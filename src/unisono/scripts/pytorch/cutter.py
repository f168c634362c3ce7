"""A call's arguments as leaves, and which of them are cut: by their position, never by lengths that happen to agree."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import cloudpickle
import torch
from torch.utils._pytree import TreeSpec

from unisono.errors import UsageError
from unisono.scripts.pytorch.devices import check_known
from unisono.scripts.pytorch.nests import flat


class _Looking(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler that meets no tensor."""

    def persistent_id(self, value: Any) -> None:
        """See `pickle.Pickler`."""
        if isinstance(value, torch.Tensor):
            raise _TensorInside


class _TensorInside(Exception):
    pass


def flattened(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[list[Any], TreeSpec]:
    """The arguments of a call as leaves.

    Args:
        name: what is called, for messages.
        args, kwargs: its arguments.

    Raises:
        UsageError: one of them cannot travel, or cannot be cut.
    """
    leaves, spec = flat((tuple(args), kwargs))
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            check_known(leaf.device)
            if leaf.layout is not torch.strided:
                raise UsageError(
                    f"a parallel call takes dense tensors; {name} received one that is {leaf.layout}. Convert it, or "
                    "leave out unisono.parallel."
                )
        elif type(leaf) not in (int, float, str, bool, type(None)):
            _check_travels(name, leaf)
    return leaves, spec


def holds_tensors(leaf: Any) -> bool:
    """Whether an object has tensors inside that nobody sees."""
    try:
        _Looking(io.BytesIO()).dump(leaf)
    except _TensorInside:
        return True
    except Exception:  # it cannot travel, which is told where it does
        return False
    return False


def _check_travels(name: str, leaf: Any) -> None:
    kind = type(leaf).__name__
    try:
        _Looking(io.BytesIO()).dump(leaf)
        pickle.dumps(leaf)
    except _TensorInside:
        raise UsageError(
            f"tensors are cut where they are arguments, or in tuples, lists and dictionaries; {name} received some "
            f"inside a {kind}. Pass its tensors, or register it with torch.utils._pytree.register_pytree_node."
        ) from None
    except Exception as error:
        raise UsageError(
            f"arguments of a parallel call travel to other processes; {name} received a {kind}, which cannot be "
            f"pickled ({error}). Make it inside the call, or pass what it is made from."
        ) from error


def shapes_of(leaves: Sequence[Any]) -> list[tuple[int, ...]]:
    """Each leaf's shape; () where it is no tensor."""
    return [tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else () for leaf in leaves]


def whole_piece(leaves: Sequence[Any], dim: int) -> range:
    """The samples of a call that is not cut, as far as its arguments tell."""
    return range(next((shape[dim] for shape in shapes_of(leaves) if len(shape) > dim and shape[dim]), 1))


def batch_of(name: str, leaves: Sequence[Any], cut: Mapping[int, int]) -> int:
    """The samples of a call.

    Args:
        name: what is called, for messages.
        leaves: its arguments.
        cut: which of them belong to the batch, and along which dimension.

    Raises:
        UsageError: they differ in length.
    """
    shapes = {place: shape for place, shape in enumerate(shapes_of(leaves)) if place in cut}
    sizes = {shape[cut[place]] if len(shape) > cut[place] else None for place, shape in shapes.items()}
    if None in sizes or len(sizes) > 1:
        where = " and ".join(str(dim) for dim in sorted(set(cut.values())))
        raise UsageError(
            f"arguments that the first call of {name} has cut must be equally long along dimension {where}; received "
            f"shapes {', '.join(str(shape) for shape in shapes.values() if shape)}. Give both the whole batch, or keep "
            "what is no batch on the module."
        )
    return next(size for size in sizes if size is not None)


def cut_leaves(leaves: Sequence[Any], cut: Mapping[int, int], pieces: Sequence[range]) -> list[list[Any]]:
    """Each microbatch's arguments.

    Args:
        leaves: the call's.
        cut: which of them are cut, and along which dimension.
        pieces: the samples of each microbatch.
    """
    return [
        [_piece(leaf, cut[place], piece) if place in cut else leaf for place, leaf in enumerate(leaves)]
        for piece in pieces
    ]


def _piece(leaf: torch.Tensor, dim: int, piece: range) -> torch.Tensor:
    return leaf.detach().narrow(dim, piece.start, len(piece)).requires_grad_(leaf.requires_grad)
