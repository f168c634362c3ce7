"""Where a recorded model may be cut, and what would cross there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from unisono.errors import UsageError
from unisono.frameworks.protocol import Indices
from unisono.frameworks.pytorch.stages.operations import Operation, Recording
from unisono.frameworks.pytorch.stages.replay import used_slots

BY_HAND = (
    "Cut it by hand: Job(stages=[…]), the forward pass in pieces, or Job(split_points=[…]), names of submodules; "
    "see docs/layouts.md."
)


NOT_CAST = frozenset(
    {"Embedding", "embedding", "EmbeddingBag", "embedding_bag", "t", "T", "mT", "transpose", "permute", "view",
     "reshape", "__getitem__"}
)  # fmt: skip
"""What takes a parameter as it is under autocast."""


def crossing(recording: Recording) -> list[Indices]:
    """Per boundary p = 0 … n the slots that are made before operation p and needed by it or a later one."""
    needed = [used_slots(recording.outputs)]
    for operation in reversed(recording.operations):
        made = {slot.number for slot, _ in operation.results}
        needed.append(needed[-1] - made | used_slots((operation.args, operation.kwargs)))
    return [tuple(sorted(slots)) for slots in reversed(needed)]


def barred_by_use(operations: Sequence[Operation], written_buffers: set[int], cached_casts: bool) -> dict[int, str]:
    """Boundaries between operations that belong together, and why.

    Args:
        operations: in program order.
        written_buffers: those that the model changes.
        cached_casts: autocast casts a parameter once for all its uses.
    """
    barred: dict[int, str] = {}

    def together(why: str, uses: Callable[[Operation], set[int]], among: set[int]) -> None:
        for number in among:
            at = [index for index, operation in enumerate(operations) if number in uses(operation)]
            if at:
                barred.update(dict.fromkeys(range(at[0] + 1, at[-1] + 1), why))

    together("a buffer that it changes is used by several operations", lambda op: op.buffers, written_buffers)
    if cached_casts:
        together(
            "autocast casts a parameter once for all its uses",
            lambda op: set() if op.name in NOT_CAST else op.parameters,
            set().union(*(operation.parameters for operation in operations)),
        )
    return barred


def barred_by_writes(
    operations: Sequence[Operation], moved_to: Sequence[int], created: Mapping[int, int],
    written: Sequence[tuple[int, int]],
) -> dict[int, str]:  # fmt: skip
    """Boundaries between what makes a tensor and what changes it in place, and why.

    Args:
        operations: in program order.
        moved_to: the index among them of each operation that was recorded.
        created, written: see `Values`.
    """
    barred: dict[int, str] = {}
    for storage, at in written:
        made = created.get(storage)
        if made is None:
            continue
        writer = operations[moved_to[at]]
        first, last = (0, len(operations)) if made < 0 else (moved_to[made], moved_to[at])
        why = f"{writer.name} at {writer.place} changes a tensor in place"
        barred.update(dict.fromkeys(range(first + 1, last + 1), why))
    return barred


def narrow(recording: Recording) -> Indices:
    """The boundaries at which no neighbour lets fewer bytes cross, which nothing bars, and which parameters follow.

    What uses no parameter is no unit: a stage that computes again would keep its input for nothing.
    """
    sizes = [sum(recording.facts[slot].size for slot in slots) for slots in crossing(recording)]
    last = len(recording.operations) - 1
    found: list[int] = []
    following = last + 1
    for p in range(last, 0, -1):
        wider = (p == 1 or sizes[p] <= sizes[p - 1]) and (p == last or sizes[p] <= sizes[p + 1])
        trained = any(operation.parameters for operation in recording.operations[p:following])
        if wider and trained and p not in recording.barred:
            found.append(p)
            following = p
    return tuple(reversed(found))


def at_split_points(recording: Recording, names: Sequence[str], modules: Sequence[str]) -> Indices:
    """The boundaries before the first operation of each named submodule.

    Raises:
        UsageError: there is no such submodule, it computes nothing, or the model can't be cut there.
    """
    found = set[int]()
    for name in names:
        if name not in modules:
            near = ", ".join(repr(module) for module in modules[1:9])
            raise UsageError(f"split_points are names of submodules; the model has no {name!r}. It has {near} …")
        inside = [p for p, op in enumerate(recording.operations) if f"{op.scope}.".startswith(f"{name}.")]
        if not inside:
            raise UsageError(
                f"the model is cut before the first operation of a split point; {name!r} has none in the forward pass, "
                "or lies inside a module that stays whole. Name another submodule."
            )
        if inside[0] in recording.barred:
            raise UsageError(
                f"the model can't be cut before {name!r}: {recording.barred[inside[0]]}. Name another submodule."
            )
        found.add(inside[0])
    return tuple(sorted(found - {0}))


@dataclass(frozen=True)
class Marks:
    """Boundaries that can be found again in a recording of other shapes.

    Attributes:
        operations: how many operations there were.
        places: per boundary its index, and its operation as (scope, name, how many of these lie before it).
    """

    operations: int
    places: tuple[tuple[int, tuple[str, str, int]], ...]

    @classmethod
    def of(cls, recording: Recording, boundaries: Sequence[int]) -> Marks:
        """Mark boundaries."""
        keys = _keys(recording)
        return cls(len(keys), tuple((p, keys[p]) for p in boundaries))

    def within(self, recording: Recording) -> Indices:
        """The boundaries in another recording of the same model.

        Raises:
            UsageError: it does other things than when it was marked.
        """
        keys = _keys(recording)
        where = {key: p for p, key in enumerate(keys)}
        found = tuple(
            p if len(keys) == self.operations and keys[p] == key else where.get(key, -1) for p, key in self.places
        )
        if list(found) != sorted(set(found)) or -1 in found or any(p in recording.barred for p in found):
            raise UsageError(
                f"a cut model does the same operations in every microbatch; this one did {self.operations} at first "
                f"and now does {len(keys)}, without the places where it was cut. " + BY_HAND
            )
        return found


def _keys(recording: Recording) -> list[tuple[str, str, int]]:
    counts: dict[tuple[str, str], Iterator[int]] = defaultdict(count)
    return [(op.scope, op.name, next(counts[op.scope, op.name])) for op in recording.operations]
