"""Gradients of calls in the script: where workers leave partial sums, and where their sum goes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from unisono.scripts.pytorch.crew import Crew, Work
from unisono.scripts.pytorch.request import State
from unisono.scripts.pytorch.rows import Rows
from unisono.scripts.pytorch.session import Session
from unisono.scripts.pytorch.spaces import Space

SMALL_BYTES = 1 << 20
"""A row that is added here sooner than workers are woken."""

_LENT = 2
"""Spaces in which the script keeps gradients: one that it adds to, and what is added."""


class Sums:
    """Adds the partial sums of a crew's workers, by these.

    Args:
        session: what parallel calls of this script share.
        crew: the workers.
        parameters: whose gradients.
    """

    def __init__(self, session: Session, crew: Crew, parameters: Sequence[torch.Tensor]) -> None:
        self._session, self._crew, self._parameters = session, crew, parameters
        self._layouts: dict[tuple[bool, ...], Rows] = {}
        self._rows: Space | None = None
        self._totals: dict[int, Space] = {}
        self._leases: list[Callable[[], Any]] = [lambda: None] * _LENT

    @contextmanager
    def rows(self, count: int, state: State) -> Iterator[Space]:
        """A block in which workers write rows; where it is broken off, they may still do so.

        Args:
            count: how many.
            state: of the call.
        """
        size = count * self._layout(state).size
        if self._rows is not None and self._rows.size < size:
            self._let_go(self._rows)
            self._rows = None
        if self._rows is None:
            self._rows = Space.create(self._session.numbered(), size)
        try:
            yield self._rows
        except BaseException:
            self._let_go(self._rows)
            self._rows = None
            raise

    def total(self, tree: Any, used: Sequence[bytes], state: State) -> list[torch.Tensor | None]:
        """The sum of the rows; whoever gets it keeps it as long as he likes.

        Args:
            tree: what to add, nested (left, right) pairs of rows.
            used: by row and parameter, whether it has a gradient.
            state: of the call.
        """
        layout, ever = self._layout(state), bytes(map(any, zip(*used, strict=True)))
        place = next((place for place, lease in enumerate(self._leases) if lease() is None), _LENT)
        into = self._into(place, layout.size)
        try:
            self._add(into, tree, used, state)
        except BaseException:  # workers may still write into it
            self._let_go(self._totals.pop(place))
            raise
        if place == _LENT:  # somebody keeps what both others hold
            return [None if view is None else view.clone() for view in layout.views(into, ever)]
        memory = self._session.lend(into)
        self._leases[place] = weakref.ref(memory)
        return layout.views(into, ever, memory=memory)

    def close(self) -> None:
        """Give everything back."""
        for space in [*self._totals.values(), *filter(None, [self._rows])]:
            space.close()

    def _add(self, into: Space, tree: Any, used: Sequence[bytes], state: State) -> None:
        layout, rows = self._layout(state), self._rows
        assert rows is not None
        if layout.size < SMALL_BYTES:
            with torch.no_grad(), state.numerics.hold():
                layout.add(rows, into, tree, used, 0, 1)
            return
        seats = self._crew.seats
        asked = state.requires_grad, state.numerics, rows.number, into.number, tree, used

        def message(part: int, _: int) -> tuple[str, tuple[Any, ...]]:
            return "add", (*asked, part, len(seats))

        works = [Work(part, partial(message, part)) for part in range(len(seats))]
        self._crew.act(works, seats, [rows, into], lambda *_: None)

    def _layout(self, state: State) -> Rows:
        if state.requires_grad not in self._layouts:
            self._layouts = {state.requires_grad: Rows(self._parameters, state.requires_grad)}
        return self._layouts[state.requires_grad]

    def _into(self, place: int, size: int) -> Space:
        if place in self._totals and self._totals[place].size < size:
            self._let_go(self._totals.pop(place))
        if place not in self._totals:
            self._totals[place] = Space.create(self._session.numbered(), size)
        return self._totals[place]

    def _let_go(self, space: Space) -> None:
        space.close()
        self._crew.tell("close", [space.number])
