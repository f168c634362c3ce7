"""Calls computed by workers: the same microbatches, keys and sums as in the script."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch

from unisono.errors.traces import is_users_file
from unisono.gradients.tree import expression
from unisono.scripts.cutting import runs_of
from unisono.scripts.pytorch.crew import Crew, Found, Work
from unisono.scripts.pytorch.messages import written_message
from unisono.scripts.pytorch.parts import Parts
from unisono.scripts.pytorch.request import Answer, Gradients, Request
from unisono.scripts.pytorch.session import Session
from unisono.scripts.pytorch.spaces import Ref, Space, Spaces, bytes_of, read, written
from unisono.scripts.pytorch.sums import Sums
from unisono.scripts.tree_sums import nodes_of
from unisono.scripts.turns import unbroken


@dataclass
class _Held:
    """A call as workers are asked for it, also again.

    Attributes:
        request: the call, written once for all workers.
        space: what its arguments and buffers lie in.
        leaves: each microbatch's arguments.
        buffers: their values before the call.
        holders: who has each microbatch's graph.
    """

    request: bytes
    space: Space
    leaves: list[list[Any]]
    buffers: list[Ref]
    holders: dict[int, int] = field(default_factory=dict)


class ByWorkers:
    """Computes calls by the workers of a crew.

    Args:
        session: what parallel calls of this script share.
        parts, payload: the targets, here and as they travel.
        workers: how many.
    """

    def __init__(self, session: Session, parts: Parts, payload: bytes, workers: int) -> None:
        refs, spaces = session.place(parts.parameters)
        session.prepare(_imports(parts))
        self._crew = Crew(session, workers, payload, refs, spaces)
        self._sums = Sums(session, self._crew, parts.parameters)
        self._spaces = Spaces(session.numbered)
        self._held: dict[int, _Held] = {}
        self._dropped: list[int] = []

    @unbroken()
    def forward(
        self, request: Request, leaves: Sequence[Sequence[Any]], buffers: Sequence[torch.Tensor]
    ) -> list[Answer]:
        """See `Computer`."""
        self._drop()
        held = self._written(request, leaves, buffers)
        answers: dict[int, Answer] = {}
        seats = self._crew.seats
        runs = runs_of(len(leaves), len(seats))

        def take(member: int, found: Any, spaces: Found) -> None:
            for microbatch, outputs, spec, with_grad, changed in found:
                answers[microbatch] = Answer(
                    [read(leaf, spaces) for leaf in outputs], spec, with_grad,
                    [None if ref is None else read(ref, spaces) for ref in changed],
                )  # fmt: skip
                held.holders[microbatch] = member

        works = [Work(run.start, partial(_asked_forward, held, run)) for run in runs]
        try:
            self._crew.act(works, seats[: len(runs)], [held.space], take)
        except BaseException:
            self._dropped.append(request.number)
            self._spaces.give(held.space)
            raise
        if request.grad and request.keeps:
            self._held[request.number] = held
        else:
            self._spaces.give(held.space)
        return [answers[microbatch] for microbatch in range(len(leaves))]

    @unbroken()
    def backward(
        self, request: Request, gradients: Sequence[Sequence[torch.Tensor | None]], keep: bool
    ) -> Gradients:  # fmt: skip
        """See `Computer`."""
        self._drop()
        held = self._held[request.number]
        space = self._spaces.take(sum(bytes_of(g) for each in gradients for g in each if g is not None))
        refs = [[None if g is None else space.put(g) for g in each] for each in gradients]
        count = len(gradients)
        runs, owners = self._runs(held)
        firsts = list(accumulate((len(nodes_of(run, count)) for run in runs), initial=0))
        used: dict[int, bytes] = {}
        inputs: dict[int, list[torch.Tensor | None]] = {}

        def take(member: int, found: Any, spaces: Found) -> None:
            used.update(found[0])
            for microbatch, each in found[1].items():
                inputs[microbatch] = [None if ref is None else read(ref, spaces).clone() for ref in each]
                held.holders[microbatch] = member

        def message(run: range, first: int, member: int) -> tuple[str, tuple[Any, ...]]:
            again = {m: held.leaves[m] for m in run if held.holders.get(m) != member}
            asked = {m: refs[m] for m in run}
            return "backward", (held.request, asked, keep, again, held.buffers, rows.number, first)

        works = [Work(run.start, partial(message, run, first)) for run, first in zip(runs, firsts, strict=False)]
        try:
            with self._sums.rows(firsts[-1], request.state) as rows:
                self._crew.act(works, owners, [held.space, space, rows], take)
        finally:
            self._spaces.give(space)
        if not keep:
            self._spaces.give(self._held.pop(request.number).space)
        nodes = [node for run in runs for node in nodes_of(run, count)]
        tree = expression(count, {node: row for row, node in enumerate(nodes)})
        total = self._sums.total(tree, [used[row] for row in range(len(nodes))], request.state)
        return Gradients(total, [inputs[microbatch] for microbatch in range(count)])

    def _runs(self, held: _Held) -> tuple[list[range], list[int]]:
        """Runs of microbatches, each with who has their graphs or computes them again."""
        seats, count = self._crew.seats, len(held.leaves)
        shares = runs_of(count, len(seats))
        whose = [seats[place] for place, run in enumerate(shares) for _ in run]
        for microbatch, holder in held.holders.items():
            if holder in self._crew.members:
                whose[microbatch] = holder
        starts = [m for m in range(count) if not m or whose[m] != whose[m - 1]]
        runs = [range(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]
        return runs, [whose[run.start] for run in runs]

    def _written(
        self, request: Request, leaves: Sequence[Sequence[Any]], buffers: Sequence[torch.Tensor]
    ) -> _Held:  # fmt: skip
        """A call in shared memory; what is not cut lies there once."""
        tensors = {id(leaf): leaf for each in leaves for leaf in each if isinstance(leaf, torch.Tensor)}
        space = self._spaces.take(sum(map(bytes_of, [*tensors.values(), *buffers])))
        refs: dict[int, Any] = {place: written(leaf, space.put) for place, leaf in tensors.items()}
        return _Held(
            written_message(request), space,
            [[refs[id(leaf)] if isinstance(leaf, torch.Tensor) else leaf for leaf in each] for each in leaves],
            [space.put(buffer) for buffer in buffers],
        )  # fmt: skip

    def is_here(self, request: Request) -> bool:
        """See `Computer`: never."""
        return False

    def drop(self, call: int) -> None:
        """Nobody asks for a call's backward pass any more."""
        self._dropped.append(call)  # the garbage collector says it, at any time

    def _drop(self) -> None:
        calls = []
        while self._dropped:
            calls.append(self._dropped.pop())
        for call in calls:
            if call in self._held:
                self._spaces.give(self._held.pop(call).space)
        if calls:
            self._crew.tell("drop", calls)

    @unbroken()
    def resize(self, workers: int) -> None:
        """Have another number of workers; at least 1."""
        self._crew.resize(workers)

    @unbroken()
    def spent(self) -> dict[int, float]:
        """See `Workers`."""
        found: dict[int, float] = {}

        def take(member: int, told: Any, spaces: Found) -> None:
            (found[member],) = told

        members = sorted(self._crew.members)
        self._crew.act([Work(0, lambda member: ("spent", ())) for _ in members], members, (), take)
        return found

    def processes(self) -> list[int]:
        """Of workers."""
        return [member.process.number for member in self._crew.members.values()]

    def close(self) -> None:
        """End the workers."""
        self._crew.close()
        for held in self._held.values():
            held.space.close()
        self._held.clear()
        self._spaces.close()
        self._sums.close()


def _asked_forward(held: _Held, run: range, member: int) -> tuple[str, tuple[Any, ...]]:
    return "forward", (held.request, {m: held.leaves[m] for m in run}, held.buffers)


def _imports(parts: Parts) -> list[str]:
    """Installed modules that the targets' classes come from."""
    kinds = {each for module in parts.every for each in type(module).__mro__}
    names = {kind.__module__ for kind in kinds if kind.__module__ in sys.modules}
    files = {name: getattr(sys.modules[name], "__file__", None) or "" for name in names - {"builtins", "__main__"}}
    return sorted(name for name, file in files.items() if file and not is_users_file(file))
