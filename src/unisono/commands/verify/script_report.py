"""What `verify` of a script found: its backward passes in each situation, and the first that differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Group, RenderableType

from unisono.commands.verify.report import situations


@dataclass(frozen=True)
class Passes:
    """What a situation gave.

    Attributes:
        name: which one.
        parameters, gradients: of each backward pass, name → hash; None: no gradient.
    """

    name: str
    parameters: tuple[Mapping[str, str | None], ...]
    gradients: tuple[Mapping[str, str | None], ...]

    @staticmethod
    def of(name: str, rows: Sequence[Mapping[str, Any]]) -> Passes:
        """What the lines of $UNISONO_HASHES say."""
        return Passes(name, *(tuple(row[what] for row in rows) for what in ("parameters", "gradients")))

    @property
    def sha256(self) -> str:
        """One hash of all."""
        return hashlib.sha256(json.dumps([self.parameters, self.gradients], sort_keys=True).encode()).hexdigest()


class Difference(NamedTuple):
    """Where a situation first differs from the first one: which pass, what of it."""

    situation: str
    backward: int
    what: str


@dataclass(frozen=True)
class ScriptReport:
    """What `verify` found of a script.

    Attributes:
        situations: the reference first, which the script computed itself.
    """

    situations: tuple[Passes, ...]

    @property
    def agree(self) -> bool:
        """Whether all situations gave the same bits."""
        return len({each.sha256 for each in self.situations}) == 1

    @property
    def difference(self) -> Difference | None:
        """The first backward pass at which a situation differs, and the first parameter or gradient of it.

        >>> one = Passes("one", ({"w": "a"}, {"w": "b"}), ({"w": "c"}, {"w": None}))
        >>> two = Passes("two", ({"w": "a"}, {"w": "b"}), ({"w": "c"}, {"w": "d"}))
        >>> ScriptReport((one, two)).difference
        Difference(situation='two', backward=2, what='the gradient of w')
        """
        found = [each for other in self.situations[1:] if (each := _first(self.situations[0], other))]
        return min(found, key=lambda each: each.backward, default=None)

    def render(self) -> RenderableType:
        """A table for a terminal, and what it means."""
        rows = ((each.name, str(len(each.parameters)), each.sha256) for each in self.situations)
        return Group(situations("backward passes", "SHA-256", found=rows), *self._verdict())

    def _verdict(self) -> Iterator[str]:
        if (found := self.difference) is None:
            count = len(self.situations[0].parameters)
            yield f"Same bits in every situation, parameters and gradients, after each of {count} backward passes:"
            yield self.situations[0].sha256
            return
        yield f"The results differ first after backward pass {found.backward} ({found.situation}), in {found.what}."
        yield (
            "Look for files that the script writes and reads again (its own checkpoint), for randomness that is not of "
            "torch, NumPy or Python, and for state that a forward pass keeps outside parameters and buffers."
        )


def _first(one: Passes, other: Passes) -> Difference | None:
    rows = zip(one.parameters, other.parameters, one.gradients, other.gradients, strict=False)
    for number, (parameters, others, gradients, other_gradients) in enumerate(rows, 1):
        for what, here, there in (("", parameters, others), ("the gradient of ", gradients, other_gradients)):
            for name in {**here, **there}:
                if here.get(name) != there.get(name) or (name in here) != (name in there):
                    return Difference(other.name, number, what + name)
    least = min(len(one.parameters), len(other.parameters))
    if len(one.parameters) != len(other.parameters):
        return Difference(other.name, least + 1, "that one of them has no such pass")
    return None
