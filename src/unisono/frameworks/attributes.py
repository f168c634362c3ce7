"""What a forward pass may not carry from one microbatch to the next: plain attributes of a model.

Each worker has its own, and would carry what its own microbatches have left there. What a pass writes before it reads
it (attention for a plot, a loss that `loss` adds) is carried nowhere. What is made once and is the same for all data
(a mask, a table of positions) does no harm either. The rest is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from operator import is_
from typing import Any

from unisono.errors import SpoiledError
from unisono.frameworks.protocol import Array
from unisono.trees.marks import SCALARS, mark

_MISSING: Any = object()


@dataclass
class _Suspect:
    """An attribute that a pass has given another value.

    Attributes:
        results: what passes have made of it, by the shapes of their inputs.
        settled: it was the same the last time, and is kept.
    """

    results: dict[Hashable, Any]
    settled: bool = False


def content(array: Array) -> Hashable:
    """An array's mark: what it holds."""
    return str(array.dtype), array.shape, blake2b(array.tobytes(), digest_size=16).digest()


def shapes(values: Any) -> Hashable:
    """What a pass is given, but for the values of arrays.

    >>> shapes([1, {"x": None}])
    (('', "<class 'int'>"), (('x', ('', "<class 'NoneType'>")),))
    """
    if isinstance(values, Mapping):
        return tuple((name, shapes(value)) for name, value in values.items())
    if isinstance(values, list | tuple):
        return tuple(map(shapes, values))
    return str(getattr(values, "shape", "")), str(getattr(values, "dtype", type(values)))


class _Holder:
    """An object and its attributes.

    Args:
        name: its place in the model.
        value: the object.
        common: attributes that are none of its own.
    """

    def __init__(self, name: str, value: Any, common: frozenset[str]) -> None:
        self.name, self.value, self.held, self._common = name, value, vars(value), common
        self.suspects: dict[str, _Suspect] = {}
        self.written_first: set[str] = set()
        self.read: set[str] = set()
        self.written: set[str] = set()
        self._kind = type(value)
        self.remember()

    def remember(self) -> None:
        """Take the attributes as they are."""
        others = self._common | self.written_first
        self.own = {name: value for name, value in self.held.items() if name not in others}

    def changed(self) -> list[tuple[str, Any]]:
        """The attributes that are other objects than before, and what they were."""
        own, held = self.own, self.held
        names = own.keys() | held.keys() - self._common - self.written_first
        return [
            (name, own.get(name, _MISSING)) for name in names if own.get(name, _MISSING) is not held.get(name, _MISSING)
        ]

    def restore(self, name: str, value: Any) -> None:
        """Give an attribute the value that it had."""
        if value is _MISSING:
            del self.held[name]
        else:
            self.held[name] = value

    def contents(self) -> Iterator[tuple[str, Any]]:
        """The attributes whose values may change in themselves."""
        for name, value in self.own.items():
            if type(value) not in SCALARS and name not in self.suspects:
                yield name, value

    def record(self) -> None:
        """See which suspects the next pass reads before it writes them."""
        self.read.clear()
        self.written.clear()
        names, read, written = frozenset(self.suspects), self.read, self.written
        kind: Any = self._kind

        def get(value: Any, name: str) -> Any:
            if name in names and name not in written:
                read.add(name)
            return kind.__getattribute__(value, name)

        def put(value: Any, name: str, given: Any) -> None:
            written.add(name)
            kind.__setattr__(value, name, given)

        recording = type(kind.__name__, (kind,), {"__getattribute__": get, "__setattr__": put})
        object.__setattr__(self.value, "__class__", recording)

    def let_go(self) -> None:
        """See nothing more."""
        object.__setattr__(self.value, "__class__", self._kind)


class Attributes:
    """The attributes of all objects that a forward pass uses.

    Args:
        holders: the objects, by their places in the model.
        common: attributes that the framework gives them.
        content: marks the framework's arrays and generators by what they hold; None for anything else.
        inside: marks them by whether they were written to; parts of the model are none.
        buffer: how a person writes a buffer, which all workers share.
    """

    def __init__(
        self, holders: Mapping[str, Any], common: frozenset[str], content: Callable[[Any], Any],
        inside: Callable[[Any], Any], buffer: str,
    ) -> None:  # fmt: skip
        self._holders = [_Holder(name, value, common) for name, value in holders.items()]
        self._content, self._inside, self._buffer = content, inside, buffer
        self._passes, self._marks = 0, dict[tuple[str, str], Any]()
        self._line_up()

    def _line_up(self) -> None:
        """Put what all objects hold into one line: a look along it takes a quarter of the time of a look at each."""
        self._held = [holder.held for holder in self._holders]
        self._counts = [*map(len, self._held)]
        self._where = [holder.held for holder in self._holders for _ in holder.own]
        self._names = [name for holder in self._holders for name in holder.own]
        self._values = [value for holder in self._holders for value in holder.own.values()]
        self._unsettled = [h for h in self._holders if not all(suspect.settled for suspect in h.suspects.values())]

    def _changed(self) -> list[tuple[_Holder, list[tuple[str, Any]]]]:
        """The objects of which an attribute is another one than before, and what `_Holder.changed` says of them."""
        if [*map(len, self._held)] == self._counts and all(
            map(is_, map(dict.get, self._where, self._names), self._values)
        ):
            return []
        found = [(holder, changed) for holder in self._holders if (changed := holder.changed())]
        if not found:  # something that is not looked at has come or gone
            self._line_up()
        return found

    @contextmanager
    def one_pass(self, shapes: Callable[[], Hashable]) -> Iterator[None]:
        """A block in which a forward pass is computed.

        Args:
            shapes: () → what it was given, but for the values.

        Raises:
            SpoiledError: it carries something on.
        """
        self._begin()
        recorded = self._unsettled
        for holder in recorded:
            holder.record()
        try:
            yield
        finally:
            for holder in recorded:
                holder.let_go()
        others = self._changed()
        for holder, changed in others:
            for name, value in changed:
                self._judge(holder, name, value, holder in recorded, shapes)
            holder.remember()
        if others:
            self._line_up()
        self._passes += 1
        if self._passes & (self._passes - 1) == 0:
            self._look_inside()

    def _begin(self) -> None:
        others = self._changed()  # by what is no pass: train(), eval()
        for holder, _ in others:
            holder.remember()
        if others:
            self._line_up()
        if self._passes == 0:
            self._marks = self._all_marks()

    def _judge(
        self, holder: _Holder, name: str, before: Any, recorded: bool, shapes: Callable[[], Hashable]
    ) -> None:  # fmt: skip
        """An attribute is another object than before."""
        value = holder.held.get(name, _MISSING)
        found = self._mark_of(value)
        if found == self._mark_of(before):
            return
        suspect = holder.suspects.get(name)
        if suspect is None:
            holder.suspects[name] = _Suspect({shapes(): found})
            holder.restore(name, before)
            return
        if recorded and not suspect.settled and name not in holder.read:
            holder.written_first.add(name)
            del holder.suspects[name]
            return
        given = shapes()
        suspect.settled = given in suspect.results
        if not suspect.settled:
            suspect.results[given] = found
            holder.restore(name, before)
        elif suspect.results[given] != found:
            raise self._refusal(holder.name, name)

    def _look_inside(self) -> None:
        marks = self._all_marks()
        for place, now in marks.items():
            was = self._marks.get(place)
            if was is None or was[0] is not now[0]:
                continue
            _, before = was
            _, after = now
            if isinstance(before, dict) and isinstance(after, dict):
                after = {key: after.get(key) for key in before}  # what is added to a cache does no harm
            if before != after:
                raise self._refusal(*place)
        self._marks = marks

    def _all_marks(self) -> dict[tuple[str, str], Any]:
        return {
            (holder.name, name): (value, self._inside_of(value))
            for holder in self._holders
            for name, value in holder.contents()
        }

    def _mark_of(self, value: Any) -> Any:
        return mark(value, self._content)

    def _inside_of(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {mark(key, self._inside): mark(item, self._inside) for key, item in value.items()}
        return mark(value, self._inside)

    def _refusal(self, holder: str, name: str) -> SpoiledError:
        place = f"{holder}.{name}".lstrip(".")
        return SpoiledError(
            "a forward pass may not carry plain attributes from one microbatch to the next, for each worker has its "
            f"own; it changes {place!r} and reads it again. Keep what follows training as a buffer ({self._buffer}), "
            "which all workers share; make what depends on no data in model()."
        )
