"""An object's whole content as a tree: plain values that JSON can hold, types and all, and arrays by name.

Scalars stand for themselves (numbers keep their type: 1 and 1.0 are written so, and integers have any size); all else
is a list that begins with what it is. What appears twice is written once, so that aliases stay aliases. A tree is
brought back into an object that the job has made the same way: what is there is filled, what is missing is made.
"""

from __future__ import annotations

import math
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np

from unisono.errors import JobError
from unisono.trees import marks
from unisono.trees.arrays import Arrays
from unisono.trees.references import Classes
from unisono.values.arrays import Array

Path = tuple[str, ...]
Fixed = dict[Path, tuple[Any, Any]]
"""By place what cannot be written, and its mark: it must stay as it is."""

DICTS = {kind.__name__: kind for kind in (dict, OrderedDict, defaultdict, Counter)}
SEQUENCES = {kind.__name__: kind for kind in (list, tuple, deque, set, frozenset)}


def spoken(root: str, path: Path) -> str:
    """A place as a person writes it.

    >>> spoken("optimizer", ("state", "weight", "history"))
    'optimizer.state.weight.history'
    """
    return ".".join((root, *path))


class Writer:
    """Writes an object's content.

    Args:
        root: what a person calls the object.
        arrays: the framework's.
        classes: what can be named.
        fixed: what cannot be written, as it was when the object was made; None = it is made now.
        own: by the place of a group of settings, the names of those that the optimizer itself changes; of the others
            nothing is written: they are the job's, and its schedule's.
    """

    def __init__(
        self, root: str, arrays: Arrays, classes: Classes, fixed: Fixed | None, own: Mapping[int, Iterable[str]]
    ) -> None:  # fmt: skip
        self._root, self._arrays, self._classes, self._before, self._own = root, arrays, classes, fixed, own
        self.fixed: Fixed = {}
        self._known: dict[int, int] = {}
        self._alive: list[Any] = []
        self._tensors: list[tuple[str, Any]] = []
        self._places: dict[int, int] = {}
        self._plain: dict[str, Array] = {}
        self._names: set[str] = set()
        self._group_of: dict[int, int] = {}
        self.groups: list[dict[str, Any]] = []

    def write(self, value: Any) -> tuple[Any, dict[str, Array]]:
        """The content as (plain values, arrays, which may share the object's memory).

        Raises:
            JobError: something has changed that cannot be kept.
        """
        tree = self._node(value, ())
        entries, arrays = self._arrays.pack(self._tensors)
        return {"tree": tree, "arrays": entries, "names": [*arrays, *self._plain]}, {**arrays, **self._plain}

    @property
    def shared(self) -> set[int]:
        """The identities of what was written that may change."""
        return set(self._known)

    def _node(self, value: Any, path: Path) -> Any:
        kind = type(value)
        if kind in marks.SCALARS:
            return _scalar(value)
        name = self._arrays.name(value)
        if name is not None:
            return ["model", name]
        if self._arrays.holds(value):
            if id(value) not in self._places:
                self._places[id(value)] = len(self._tensors)
                self._tensors.append((self._named(path), value))
            return ["tensor", self._places[id(value)]]
        if id(value) in self._known:
            return ["same", self._known[id(value)]]
        written = self._held(value, kind, path)
        return self._left(value, path) if written is None else written

    def _held(self, value: Any, kind: type, path: Path) -> Any:
        """Whatever is made of other values; None of what is not."""
        if kind.__name__ in SEQUENCES and SEQUENCES[kind.__name__] is kind:
            number = self._number(value)
            length = [value.maxlen] if kind is deque else []
            items = [self._node(item, (*path, str(index))) for index, item in enumerate(value)]
            if kind in (set, frozenset):
                items.sort(key=repr)
            return [kind.__name__, number, items, *length]
        if kind.__name__ in DICTS and DICTS[kind.__name__] is kind:
            return self._dict(value, path)
        if isinstance(value, np.generic) and not value.dtype.hasobject:
            return ["number", value.dtype.str, value.tobytes().hex()]
        if kind is np.ndarray and not value.dtype.hasobject:
            number, name = self._number(value), self._named(path)
            self._plain[name] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            return ["array", number, name, value.dtype.str, value.shape]
        if isinstance(value, Enum):
            return ["member", self._classes.name(kind), value.name] if self._classes.name(kind) else None
        if isinstance(value, tuple) and hasattr(kind, "_fields") and self._classes.name(kind):
            items = [self._node(item, (*path, name)) for name, item in zip(kind._fields, value, strict=True)]
            return ["named", self._number(value), self._classes.name(kind), items]
        if isinstance(value, types.MethodType):
            return ["method", self._node(value.__self__, (*path, "__self__")), value.__name__]
        constant = self._arrays.plain(value)
        if constant is not None:
            return ["constant", constant]
        for where, held in (("neutral", marks.moments(value)), ("framework", self._arrays.moments(value))):
            if held is not None:
                return ["generator", self._number(value), where, self._node(held, path)]
        return self._object(value, kind, path) if marks.is_plain(value) else None

    def _dict(self, value: dict[Any, Any], path: Path) -> Any:
        number = self._number(value)
        chosen = list(value)
        group = self._group_of.get(id(value))
        if group is not None:
            self._unmoved(value["params"], (*path, "params"))
            chosen = [name for name in value if name in self._own.get(group, ())]
        items = [
            [self._node(key, path), self._node(value[key], (*path, self._arrays.name(key) or str(key)))]
            for key in chosen
        ]
        factory = value.default_factory if isinstance(value, defaultdict) else None
        made = [self._node(factory, (*path, "default_factory"))] if factory is not None else []
        return ["group" if group is not None else type(value).__name__, number, items, *made]

    def _object(self, value: Any, kind: type, path: Path) -> Any:
        name = self._classes.name(kind) if marks.can_be_made(kind) else None
        if name is None:  # it can be filled where it is, and not be made anew
            self._stay(value, path, None)
        number = self._number(value)
        for group in self._arrays.groups(value):
            if id(group) not in self._group_of:
                self._group_of[id(group)] = len(self.groups)
                self.groups.append(group)
        passing = self._arrays.passing(value)
        items = [
            [name, self._node(item, (*path, name))]
            for name, item in marks.attributes(value).items() if name not in passing
        ]  # fmt: skip
        return ["object", number, name, items]

    def _left(self, value: Any, path: Path) -> Any:
        """What can only be named, or must stay as it is."""
        name = self._classes.name(value) if isinstance(value, type) else None
        if name is not None:
            return ["class", name]
        self._stay(value, path, marks.mark(value, self._arrays.mark))
        return ["fixed", list(path)]

    def _stay(self, value: Any, path: Path, now: Any) -> None:
        """Take note of what must be there still, with the same mark."""
        self.fixed[path] = value, now
        if self._before is not None:
            before, known = self._before.get(path, (None, None))
            if before is not value:
                raise self._refused(value, path, "has appeared" if before is None else "is another one")
            if known != now:
                raise self._refused(value, path, "has changed")

    def _unmoved(self, members: Any, path: Path) -> None:
        self.fixed[path] = members, [id(member) for member in members]
        if self._before is not None and self._before.get(path, (None, None))[1] != self.fixed[path][1]:
            raise self._refused(members, path, "has changed")

    def _refused(self, value: Any, path: Path, what: str) -> JobError:
        kind = type(value)
        place = spoken(self._root, path)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        return JobError(
            "what an optimizer keeps from step to step is kept for whoever goes on with it: tensors, numbers, text, "
            f"None, and lists, tuples, sets, deques, dicts and objects made of them; {place} (a {module}"
            f"{kind.__qualname__}) {what} in a step, and cannot be kept. Keep what it holds in one of those, or leave "
            "it unchanged in step()."
        )

    def _number(self, value: Any) -> int:
        self._alive.append(value)
        return self._known.setdefault(id(value), len(self._known))

    def _named(self, path: Path) -> str:
        state = path.index("state") + 1 if "state" in path[:-1] else 0
        name = wanted = "/".join(path[state:])
        again = 1
        while name in self._names:
            again += 1
            name = f"{wanted}#{again}"
        self._names.add(name)
        return name


def _scalar(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return ["float", repr(value)]
    if isinstance(value, complex):
        return ["complex", _scalar(value.real), _scalar(value.imag)]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    return value
