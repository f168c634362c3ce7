"""Probes: the whole batch against its parts, to find which arguments are cut and how each output is joined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._pytree import TreeSpec

from unisono.errors import JobError, UsageError
from unisono.scripts.cutting import candidates, microbatches_of
from unisono.scripts.pytorch.cutter import batch_of, cut_leaves, shapes_of, whole_piece
from unisono.scripts.pytorch.joins import COARSE_ROUNDING, ROUNDING, Join, possible
from unisono.scripts.pytorch.request import Answer, Request

_UNDECIDED_CALLS = 16
"""How many calls in a row are probed where a number (0, say) is both the mean and the sum of its parts."""

Compute = Callable[[Request, Sequence[Sequence[Any]]], list[Answer]]


@dataclass
class Way:
    """What has been found for one kind of call.

    Attributes:
        ways: the ways in which each output may be joined.
        spec: how the outputs are nested.
        calls: how many there were.
    """

    ways: list[set[Join]] = field(default_factory=list)
    spec: TreeSpec | None = None
    calls: int = 0

    @property
    def is_due(self) -> bool:
        """Whether the next call is probed."""
        undecided = self.spec is None or any(len(each) > 1 for each in self.ways)
        return self.calls & (self.calls - 1) == 0 or (undecided and self.calls <= _UNDECIDED_CALLS)

    def join(self, output: int) -> Join:
        """How an output is joined."""
        return min(self.ways[output], key=lambda way: -1 if isinstance(way, int) else _PREFERRED.index(way))


_PREFERRED: tuple[Join, ...] = ("mean", "same", "sum")


@dataclass
class Probe:
    """Looks at calls of one target.

    Args:
        name: it, for messages.
        every: all modules, in the order of the flags.
        dim: the batch's dimension.
        microbatches: wanted.
        compute: computes microbatches.
    """

    name: str
    every: Sequence[nn.Module]
    dim: int
    microbatches: int
    compute: Compute

    def least_samples(self, training: Sequence[bool]) -> int:
        """Of a microbatch: batch statistics need two."""
        norms = (nn.modules.batchnorm._BatchNorm,)
        return 1 + any(flag and isinstance(each, norms) for each, flag in zip(self.every, training, strict=True))

    def pieces(self, samples: int, training: Sequence[bool]) -> list[range]:
        """The samples of each microbatch."""
        return microbatches_of(samples, self.microbatches, self.least_samples(training))

    def settle(
        self, request: Request, leaves: Sequence[Any], cut: Mapping[int, int] | None, way: Way
    ) -> Mapping[int, int] | None:
        """Find what is cut, if nobody knows yet, and how outputs are joined.

        Args:
            request: the call; of its pieces nothing is known yet.
            leaves: its arguments.
            cut: what earlier calls have cut.
            way: gets what is found.

        Returns:
            What is cut, and along which dimension; None where the batch is too small to tell.

        Raises:
            UsageError: outputs are not made of those of parts of the batch.
            JobError: the call fails for the whole batch.
        """
        whole = _Whole(self, request, leaves)
        told = ""
        choices = [cut] if cut is not None else list(candidates(shapes_of(leaves), self.dim))
        for choice in choices:
            samples = batch_of(self.name, leaves, choice)
            pieces = self.pieces(samples, request.state.training)
            if len(pieces) < 2:
                return None
            found = whole.compared(choice, pieces)
            if isinstance(found, str):
                told = told or found
                continue
            ways, spec = found
            if way.spec is not None and way.spec != spec:
                raise UsageError(f"{self.name} must return the same structure at each call; it has returned another.")
            known = way.ways or ways
            way.ways = [one & other for one, other in zip(known, ways, strict=True)]
            way.spec = spec
            if all(way.ways):
                return choice
            told = "output " + ", ".join(str(place) for place, each in enumerate(way.ways) if not each)
            told += " joined otherwise than at calls before"
            break
        other = 0 if self.dim else 1
        raise UsageError(
            f"what {self.name} returns must be made of what parts of the batch give: tensors one after another along a "
            f"dimension, numbers as the mean over samples or the sum; received {told}. If samples lie along "
            f"another dimension (nn.LSTM, nn.Transformer: time first), say so: unisono.parallel(…, dim={other}). "
            "If the loss needs the whole batch, compute it outside the call; or microbatches=1."
        )


class _How(NamedTuple):
    """How the outputs of the whole batch and of its parts are computed to be compared.

    Attributes:
        evaluating: whether the modules that may draw random numbers, and PyTorch does not see it, are in that mode.
        steady: see `Request`.
        draw: see `Request`.
    """

    evaluating: bool = False
    steady: bool = False
    draw: int = 0


@dataclass
class _Whole:
    """The whole batch's outputs, in each way in which they can be compared."""

    probe: Probe
    request: Request
    leaves: Sequence[Any]
    known: dict[_How, Answer | JobError] = field(default_factory=dict)

    def compared(self, cut: Mapping[int, int], pieces: list[range]) -> tuple[list[set[Join]], TreeSpec] | str:
        """How outputs are joined, or what stands against it.

        Where the forward pass draws random numbers itself, without them: what PyTorch draws is held steady; where
        others draw, modules are in evaluation mode too.
        """
        whole = self._of(_How())
        if isinstance(whole, JobError):
            raise whole
        found = self._against(whole, cut, pieces, _How())
        for how in (_How(steady=True), _How(steady=True, evaluating=True)):
            if not isinstance(found, str) or (how.evaluating and not self._is_random()):
                break
            still = self._of(how)
            if not isinstance(still, JobError) and still.spec == whole.spec:
                found = self._against(still, cut, pieces, how)
        return found

    def _is_random(self) -> bool:
        """Whether outputs differ from draw to draw though PyTorch draws nothing."""
        one, other = (self._of(_How(steady=True, draw=draw)) for draw in (0, 1))
        if isinstance(one, JobError) or isinstance(other, JobError):
            return False
        pairs = zip(one.leaves, other.leaves, strict=True)
        return not all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)

    def _of(self, how: _How) -> Answer | JobError:
        if how not in self.known:
            try:
                (self.known[how],) = self._computed(how, [whole_piece(self.leaves, self.probe.dim)], [self.leaves])
            except JobError as error:
                self.known[how] = error
        return self.known[how]

    def _computed(self, how: _How, pieces: Sequence[range], leaves: Sequence[Sequence[Any]]) -> list[Answer]:
        training = tuple(
            flag and not how.evaluating and not _is_of_torch(module)
            for module, flag in zip(self.probe.every, self.request.state.training, strict=True)
        )
        state = replace(self.request.state, training=training)
        request = replace(
            self.request, pieces=pieces, draw=how.draw, state=state, keeps=False, steady=how.steady
        )  # fmt: skip
        return [_kept(answer) for answer in self.probe.compute(request, leaves)]

    def _against(
        self, whole: Answer, cut: Mapping[int, int], pieces: list[range], how: _How
    ) -> tuple[list[set[Join]], TreeSpec] | str:
        try:
            parts = self._computed(how, pieces, cut_leaves(self.leaves, cut, pieces))
        except JobError as error:
            return (
                f"a part of the batch that cannot be computed ({(error.traceback or error.message).splitlines()[-1]})"
            )
        if any(part.spec != whole.spec for part in parts):
            return "outputs of another structure"
        samples = sum(map(len, pieces))
        weights = [len(piece) / samples for piece in pieces]
        ways = []
        for place, value in enumerate(whole.leaves):
            each = [part.leaves[place] for part in parts]
            ways.append(possible(value, each, weights, self.probe.dim, self._tolerance(value)))
            if not ways[-1]:
                return f"output {place}: {_shown(value)} of the whole batch, {_shown(each[0])} of its first part"
        return ways, whole.spec

    def _tolerance(self, value: Any) -> float:
        coarse = {torch.bfloat16, torch.float16}
        dtypes = {each.dtype for each in (value, *self.leaves) if isinstance(each, torch.Tensor)}
        dtypes |= {
            each.dtype for module in self.probe.every for each in module._parameters.values() if each is not None
        }
        return COARSE_ROUNDING if self.request.state.numerics.autocast or dtypes & coarse else ROUNDING


def _kept(answer: Answer) -> Answer:
    """An answer that outlives the next act."""
    leaves = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in answer.leaves]
    return replace(answer, leaves=leaves, buffers=[])


def _is_of_torch(module: nn.Module) -> bool:
    """Whether a module's mode only says that it draws random numbers, or uses the batch's statistics."""
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    return isinstance(module, kinds) or type(module).__module__.startswith("torch.")


def _shown(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"{value!r}"[:60]
    return f"{value.item():.6g}" if value.dim() == 0 else f"a tensor of shape {tuple(value.shape)}"
