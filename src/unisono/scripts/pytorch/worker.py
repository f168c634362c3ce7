"""A worker of a script: computes the microbatches that it is asked for."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

import torch

from unisono.errors import JobError, UsageError
from unisono.errors.traces import whole_traceback
from unisono.memory.heap import LARGE_BYTES, keep_freed
from unisono.runtime.processes.channel import Channel
from unisono.scripts.pytorch.bell import Bell
from unisono.scripts.pytorch.failures import told
from unisono.scripts.pytorch.messages import written_message
from unisono.scripts.pytorch.noted import note
from unisono.scripts.pytorch.numerics import Numerics
from unisono.scripts.pytorch.replica import Replica
from unisono.scripts.pytorch.request import Request
from unisono.scripts.pytorch.rows import Rows
from unisono.scripts.pytorch.spaces import Ref, Space, bytes_of, read, written
from unisono.scripts.pytorch.travelling import opened
from unisono.scripts.pytorch.values import added, own_copy
from unisono.scripts.pytorch.wrapping import INSIDE
from unisono.scripts.tree_sums import folded

_FIRST_BYTES = 1 << 20


class Outbox:
    """Where a worker leaves tensors until the next act.

    Attributes:
        new: spaces that the script does not have yet.
    """

    def __init__(self) -> None:
        self._spaces: list[Space] = []
        self._made = 0
        self.new: list[Space] = []

    def clear(self) -> None:
        """Another act has begun: what was left is not needed any more."""
        for space in self._spaces[:-1]:
            space.close()
        self._spaces = self._spaces[-1:]
        for space in self._spaces:
            space.clear()

    def put(self, tensor: torch.Tensor, grad: bool = False) -> Ref:
        """Leave a tensor."""
        if not self._spaces or not self._spaces[-1].room_for(tensor):
            size = max(_FIRST_BYTES, bytes_of(tensor), 2 * self._spaces[-1].size if self._spaces else 0)
            self._made += 1
            self._spaces.append(Space.create(self._made, size))
            self.new.append(self._spaces[-1])
        return self._spaces[-1].put(tensor, grad)


def _message(act: int, new: list[tuple[int, int]], answer: Any) -> bytes:
    try:
        return written_message((act, new, answer))
    except Exception as error:
        text = (
            f"what a parallel call returns travels between processes, so it must be picklable; received {error}. "
            "Return tensors, numbers and texts, in tuples, lists and dictionaries."
        )
        return written_message((act, new, ("refused", text, "")))


class Worker:
    """Answers a script.

    Args:
        channel: its messages.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel, self._outbox = channel, Outbox()
        self._spaces: dict[int, Space] = {}
        self._act: int | None = None
        self._spent = 0.0
        self._replica: Replica
        self._bell: Bell | None = None
        self._rows: dict[tuple[bool, ...], Rows] = {}

    def serve(self) -> None:
        """Answer until the script closes the channel.

        Raises:
            EOFError: it has.
        """
        INSIDE.set(True)
        while True:
            if self._bell is not None:
                self._bell.wait(self._channel)
            (verb, act, spaces, arguments), files = self._channel.receive()
            for (number, size), file in zip(spaces, files, strict=True):
                self._spaces[number] = Space(number, file, size)
            if act not in (None, self._act):
                self._act = act
                self._outbox.clear()  # an heir has several works in an act
            self._outbox.new = []
            began = perf_counter()
            try:
                answer = getattr(self, verb)(*arguments)
                self._spent += perf_counter() - began
            except UsageError as error:
                answer = ("refused", str(error), "")
            except JobError as error:
                answer = ("failed", error.message, error.traceback)
            except Exception as error:
                answer = (
                    "failed",
                    f"{type(error).__name__}: an error in Unisono: please report it",
                    whole_traceback(error),
                )
            sys.stdout.flush()  # what the model prints is seen before the script goes on
            if act is not None:
                new = [(space.number, space.size) for space in self._outbox.new]
                self._channel.send(_message(act, new, answer), [space.file for space in self._outbox.new])

    def open(self, path: list[str], folder: str, payload: bytes, parameters: Sequence[Ref], bell: int) -> None:
        """Take the targets; from now on a bell rings for messages."""
        self._bell = Bell(self._space(bell))
        sys.path[:] = path
        os.chdir(folder)
        keep_freed(LARGE_BYTES)
        parts = opened(payload, [self._space(ref.space).view(ref) for ref in parameters])
        note(parts.every)
        self._replica = Replica(parts, parts.parameters)

    def close(self, numbers: Sequence[int]) -> None:
        """Some spaces are not used any more."""
        for number in numbers:
            if number in self._spaces:  # a successor has seen those alone that were used since
                self._spaces.pop(number).close()

    def spent(self) -> tuple[float]:
        """Seconds that everything that was asked for has taken so far."""
        return (self._spent,)

    def drop(self, calls: Sequence[int]) -> None:
        """Nobody asks for the backward passes of some calls any more."""
        for call in calls:
            self._replica.drop(call)

    def forward(self, written_request: bytes, leaves: dict[int, list[Any]], buffers: Sequence[Ref]) -> Any:
        """Compute microbatches; gives what each `Answer` holds."""
        request: Request = pickle.loads(written_request)
        base = [self._space(ref.space).view(ref) for ref in buffers]
        found = []
        for microbatch, each in leaves.items():
            with told(request, "forward", microbatch):
                own = [own_copy(read(leaf, self._space)) for leaf in each]
                answer = self._replica.forward(request, microbatch, own, base)
            found.append((
                microbatch,
                [written(leaf, self._outbox.put) for leaf in answer.leaves],
                answer.spec,
                answer.with_grad,
                [None if buffer is None else self._outbox.put(buffer) for buffer in answer.buffers],
            ))  # fmt: skip
        return found

    def backward(
        self, written_request: bytes, gradients: dict[int, list[Ref | None]], keep: bool,
        again: dict[int, list[Any]], buffers: Sequence[Ref], sums: int, first: int,
    ) -> Any:  # fmt: skip
        """Compute the backward passes of a run of microbatches and leave their partial sums as rows.

        Args:
            written_request: the call.
            keep: see `Replica`.
            gradients: of each microbatch's outputs.
            again: arguments of those whose forward pass is computed here first: who had computed it is dead.
            buffers: for these.
            sums: the space that rows lie in.
            first: this run's first row.

        Returns:
            By row whether each parameter has a gradient, and by microbatch the gradients of inputs.
        """
        request: Request = pickle.loads(written_request)
        if again:
            self._repeat(request, again, buffers)
        inputs = {}

        def of(microbatch: int) -> list[torch.Tensor | None]:
            own = [None if ref is None else self._space(ref.space).view(ref).clone() for ref in gradients[microbatch]]
            with told(request, "backward", microbatch):
                parameters, its_inputs = self._replica.backward(request.number, microbatch, own, keep)
            inputs[microbatch] = [self._put(each) for each in its_inputs]
            return parameters

        run, used = range(min(gradients), max(gradients) + 1), {}
        found = folded(run, len(request.pieces), of, partial(added, request.state.numerics))
        layout = self._layout(request.state.requires_grad)
        for row, partial_sum in enumerate(found.values(), first):
            used[row] = bytes(each is not None for each in partial_sum)
            for place, gradient in zip(layout.views(self._space(sums), used[row], row), partial_sum, strict=True):
                if place is not None and gradient is not None:
                    place.copy_(gradient)
        return used, inputs

    def add(self, wanted: tuple[bool, ...], numerics: Numerics, sums: int, into: int, *what: Any) -> tuple[str]:
        """Form a part of the sum of all rows.

        Args:
            wanted: which parameters want a gradient.
            numerics: to add with.
            sums, into: the spaces.
            what: see `Rows.add`.
        """
        with torch.no_grad(), numerics.hold():
            self._layout(wanted).add(self._space(sums), self._space(into), *what)
        return ("added",)

    def _layout(self, wanted: tuple[bool, ...]) -> Rows:
        if wanted not in self._rows:
            self._rows = {wanted: Rows(self._replica.parameters, wanted)}
        return self._rows[wanted]

    def _repeat(self, request: Request, leaves: dict[int, list[Any]], buffers: Sequence[Ref]) -> None:
        base = [self._space(ref.space).view(ref) for ref in buffers]
        for microbatch, each in leaves.items():
            with told(request, "forward", microbatch):
                own = [own_copy(read(leaf, self._space)) for leaf in each]
                self._replica.forward(request, microbatch, own, base)

    def _put(self, tensor: torch.Tensor | None) -> Ref | None:
        return None if tensor is None else self._outbox.put(tensor)

    def _space(self, number: int) -> Space:
        return self._spaces[number]
