"""The calls of a script: cut, computed, joined, and taken back through by `backward()`."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_unflatten

from unisono.errors import UsageError
from unisono.scripts.pytorch.buffers import combine
from unisono.scripts.pytorch.computed import compute_again
from unisono.scripts.pytorch.cutter import batch_of, cut_leaves, flattened, whole_piece
from unisono.scripts.pytorch.failures import calling_line
from unisono.scripts.pytorch.graph import CallGraph
from unisono.scripts.pytorch.joins import joined, tensors_of
from unisono.scripts.pytorch.node import Node
from unisono.scripts.pytorch.probe import Probe, Way
from unisono.scripts.pytorch.request import Answer, Request
from unisono.scripts.pytorch.world import World
from unisono.scripts.said import say

_DRAWS = 1 << 62


@dataclass
class Calls:
    """Calls of what one `unisono.parallel` was given.

    Args:
        world: the targets and who computes them.
        names: of the targets, for messages.
        microbatches: into how many a call is cut.
        dim: the batch's dimension.
    """

    world: World
    names: Sequence[str]
    microbatches: int
    dim: int
    _cuts: dict[Any, Mapping[int, int]] = field(default_factory=dict)
    _ways: dict[Any, Way] = field(default_factory=dict)
    _has_said: bool = False

    def __call__(self, target: int, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Compute a call.

        Args:
            target: which of the targets is called.
            args, kwargs: with what.

        Raises:
            UsageError: it cannot be cut, or breaks another rule.
            JobError: the model raised.
        """
        leaves, spec = flattened(self.names[target], args, kwargs)
        self.world.refresh()
        draw = int(torch.randint(_DRAWS, (), device="cpu"))
        grad = torch.is_grad_enabled()
        state = self.world.state()
        where = f"{self.names[target]}, called at {calling_line()}"
        request = Request(self.world.numbered(), target, spec, (), draw, grad, where, state)
        with torch.inference_mode(False), torch.no_grad():
            cut, way = self._settled(request, leaves)
            training = state.training
            if cut is None:
                pieces = [whole_piece(leaves, self.dim)]
                each = [leaves]
            else:
                pieces = self._probe(target).pieces(batch_of(self.names[target], leaves, cut), training)
                each = cut_leaves(leaves, cut, pieces)
            self._say_statistics(training, pieces)
            request = replace(request, pieces=pieces)
            answers = self.world.forward(request, each)
            outputs, flat = self._joined(request, answers, way)
            combine(self.world.parts.buffers, [answer.buffers for answer in answers], pieces)
        compute_again(
            [each for each, names in zip(self.world.parts.every, self.world.parts.computed, strict=True) if names]
        )
        return self._taken_up(request, leaves, each, cut or {}, answers, outputs, flat, way)

    def _say_statistics(self, training: Sequence[bool], pieces: Sequence[range]) -> None:
        """Say once that batch norm sees parts of the batch."""
        if self._has_said or len(pieces) < 2:
            return
        norms = [
            type(module).__name__
            for module, flag in zip(self.world.parts.every, training, strict=True)
            if flag and isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        if norms:
            self._has_said = True
            say(
                f"{norms[0]} sees {len(pieces[0])} of {sum(map(len, pieces))} samples, as under DDP on {len(pieces)} "
                "ranks; microbatches=1 keeps the plain script's statistics."
            )

    def _probe(self, target: int) -> Probe:
        return Probe(self.names[target], self.world.parts.every, self.dim, self.microbatches, self.world.forward)

    def _settled(self, request: Request, leaves: Sequence[Any]) -> tuple[Mapping[int, int] | None, Way]:
        """What of a call is cut (None: nothing), and how its outputs are joined."""
        kinds = tuple(leaf.dim() if isinstance(leaf, torch.Tensor) else type(leaf).__name__ for leaf in leaves)
        shape = request.target, str(request.spec), kinds
        mode = shape, request.state.training, request.grad
        way = self._ways.setdefault(mode, Way())
        way.calls += 1
        cut = self._cuts.get(shape)
        if self.microbatches == 1:
            return None, way
        probe = self._probe(request.target)
        if cut is None:
            self._check_cuttable(request, leaves)
        if cut is None or way.is_due:
            found = probe.settle(request, leaves, cut, way)
            if found is None:
                way.calls -= 1  # too small to tell
                return None, way
            cut = self._cuts[shape] = found
        return cut, way

    def _check_cuttable(self, request: Request, leaves: Sequence[Any]) -> None:
        if not any(isinstance(leaf, torch.Tensor) and leaf.dim() > self.dim for leaf in leaves):
            raise UsageError(
                f"a parallel call is cut along dimension {self.dim} of its first tensor; {self.names[request.target]} "
                "received none that has it. Pass the batch as an argument, or leave out unisono.parallel."
            )

    def _joined(self, request: Request, answers: Sequence[Answer], way: Way) -> tuple[list[torch.Tensor], list[Any]]:
        """The outputs that are tensors, and all leaves with None in their places."""
        first = answers[0]
        if len(answers) == 1:
            return [each.clone() for each in tensors_of(first)], [
                None if isinstance(leaf, torch.Tensor) else leaf for leaf in first.leaves
            ]
        if any(answer.spec != way.spec for answer in answers):
            raise UsageError(
                f"all microbatches of a call return the same structure, and the one of earlier calls; "
                f"{self.names[request.target]} has returned {first.spec} after {way.spec}. Return the same always."
            )
        weights = self.weights(request)
        tensors, flat = [], []
        for place, leaf in enumerate(first.leaves):
            parts = [answer.leaves[place] for answer in answers]
            value = joined(way.join(place), parts, weights)
            if isinstance(leaf, torch.Tensor):
                tensors.append(value)
            flat.append(None if isinstance(leaf, torch.Tensor) else value)
        return tensors, flat

    @staticmethod
    def weights(request: Request) -> list[float]:
        """Each microbatch's share of the samples."""
        return [len(piece) / request.samples if request.samples else 1.0 for piece in request.pieces]

    def _taken_up(
        self, request: Request, leaves: Sequence[Any], each: Sequence[Sequence[Any]], cut: Mapping[int, int],
        answers: Sequence[Answer], outputs: list[torch.Tensor], flat: list[Any], way: Way,
    ) -> Any:  # fmt: skip
        """The call's outputs as the script gets them, with a node of its graph behind them."""
        with_grad = [any(flags) for flags in zip(*(answer.with_grad for answer in answers), strict=True)]
        if request.grad and any(with_grad):
            kinds = [place for place, leaf in enumerate(answers[0].leaves) if isinstance(leaf, torch.Tensor)]
            joins = [way.join(place) if len(answers) > 1 else "same" for place in kinds]
            wanting = [n for n, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
            graph = CallGraph(self.world, request, joins, [[t.shape for t in tensors_of(a)] for a in answers],
                              self.weights(request), cut, wanting)  # fmt: skip
            weakref.finalize(graph, self.world.drop, request.number).atexit = False
            outputs = list(Node.apply(outputs, with_grad, graph, *graph.sources(leaves)))  # type: ignore[no-untyped-call]
        elif request.grad:
            self.world.drop(request.number)
        tensors = iter(outputs)
        places = [isinstance(leaf, torch.Tensor) for leaf in answers[0].leaves]
        return tree_unflatten(
            [next(tensors) if is_tensor else leaf for is_tensor, leaf in zip(places, flat, strict=True)],
            answers[0].spec,
        )


def check_untransformed(name: str) -> None:
    """Refuse transformations of a call: they do not reach other processes.

    Args:
        name: what is called, for messages.

    Raises:
        UsageError: one is under way.
    """
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        raise UsageError(
            f"a parallel call is differentiated by backward() and torch.autograd.grad; {name} was called in torch.func "
            "(grad, vmap, jvp, functional_call) or forward_ad. Put that into a function under @unisono.parallel, with "
            "the model inside."
        )
