"""Brings a tree back into an object that the job has made as the written one was made (see `writer`)."""

from __future__ import annotations

import inspect
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from unisono.trees import marks
from unisono.trees.arrays import Arrays
from unisono.trees.grammar import check_tree
from unisono.trees.references import Classes
from unisono.trees.writer import DICTS, SEQUENCES, Fixed
from unisono.values.arrays import Array
from unisono.values.text import excerpt
from unisono.values.untrusted import Malformed, check


class Reader:
    """Brings a tree back into an object.

    Args:
        arrays: the framework's.
        classes: what can be named.
        fixed: what the tree does not hold, by its place in the object.
    """

    def __init__(self, arrays: Arrays, classes: Classes, fixed: Fixed) -> None:
        self._arrays, self._classes = arrays, classes
        self._made: dict[int, Any] = {}
        self._filled: set[int] = set()
        self._tensors: list[Any] = []
        self._renewed: dict[int, Any] = {}
        self._simple: Mapping[str, Callable[..., Any]] = {
            "same": self._made.__getitem__, "model": arrays.named, "class": classes.named, "constant": arrays.constant,
            "fixed": lambda path: fixed[tuple(path)][0], "float": float, "bytes": bytes.fromhex,
            "member": lambda kind, name: getattr(classes.named(kind), name),
            "number": lambda dtype, data: np.frombuffer(bytes.fromhex(data), dtype)[0],
            "complex": lambda *parts: complex(*(self._value(part, None) for part in parts)),
        }  # fmt: skip
        """What is made by the rest of a node alone."""
        self._values: Mapping[str, Array] = {}

    def read(self, content: Mapping[str, Any], values: Mapping[str, Array], into: Any) -> None:
        """Fill the object with what `Writer.write` gave.

        Args:
            content: the plain values.
            values: the arrays.
            into: an object made as the written one was.

        Raises:
            Malformed: `Writer.write` has not given it, to an object that was made so.
        """
        tree, entries = content.get("tree"), check(content.get("arrays"), [list])
        check_tree(tree, values, self._classes)
        self._values = values
        try:
            self._tensors = self._arrays.unpack(entries, values)
            self._value(tree, into)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise Malformed(f"it is not of an object that was made as this one is ({error!r})") from error

    def _value(self, node: Any, existing: Any) -> Any:
        if not isinstance(node, list):
            return node
        kind, *rest = node
        if kind in self._simple:
            return self._simple[kind](*rest)
        return getattr(self, f"_{kind}", self._sequence if kind in SEQUENCES else self._dict)(node, existing, *rest)

    def _target(self, existing: Any, kind: type) -> Any:
        """What is there already, if it is to be filled for the first time."""
        if type(existing) is not kind or id(existing) in self._filled:
            return None
        self._filled.add(id(existing))
        return existing

    def _sequence(self, node: Any, existing: Any, number: int, items: list[Any], *length: Any) -> Any:
        kind = SEQUENCES[node[0]]
        if kind in (tuple, frozenset):
            old = list(existing) if type(existing) is kind and kind is tuple else []
            made: Any = kind(self._items(items, old))
            self._made[number] = made
            return made
        target = self._target(existing, kind)
        if target is None or (length and target.maxlen != length[0]):
            target = deque(maxlen=length[0]) if length else kind()
        old = list(target) if kind is not set else []
        self._made[number] = target
        target.clear()
        for value in self._items(items, old):
            target.add(value) if kind is set else target.append(value)
        return target

    def _items(self, items: list[Any], old: list[Any]) -> list[Any]:
        return [self._value(item, old[index] if index < len(old) else None) for index, item in enumerate(items)]

    def _dict(self, node: Any, existing: Any, number: int, items: list[Any], *factory: Any) -> Any:
        kind: Any = DICTS[node[0]]
        target = self._target(existing, kind)
        if target is None:
            target = kind(self._value(factory[0], None)) if factory else kind()
        self._made[number] = target
        old = dict(target)
        target.clear()
        for key, value in self._keyed(items, old):
            target[key] = value
        return target

    def _keyed(self, items: list[Any], old: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
        for key_node, node in items:
            key = self._value(key_node, None)
            yield key, self._value(node, old.get(key))

    def _group(self, _: Any, existing: Any, number: int, items: list[Any]) -> Any:
        self._made[number] = existing
        existing.update(self._keyed(items, existing))
        return existing

    def _object(self, _: Any, existing: Any, number: int, name: str | None, items: list[Any]) -> Any:
        kind = type(existing) if name is None else self._classes.named(name)
        target = self._target(existing, kind)
        if target is None and name is None:
            raise Malformed(f"an object that must be there is not: {excerpt(existing)}")
        if target is None:
            target = object.__new__(kind)
        self._made[number] = target
        held, passing, own = marks.attributes(target), self._arrays.passing(target), marks.slots(kind)
        for gone in set(held) - {item for item, _ in items} - passing:
            delattr(target, gone)
        for attribute, node in items:
            value = self._value(node, held.get(attribute))
            if attribute in held and held[attribute] is value:
                continue
            if attribute in own:
                object.__setattr__(target, attribute, value)
            else:
                target.__dict__[attribute] = value
        return target

    def _tensor(self, _: Any, existing: Any, place: int) -> Any:
        if place not in self._renewed:
            free = self._arrays.holds(existing) and id(existing) not in self._filled
            value = self._tensors[place]
            self._renewed[place] = self._arrays.renewed(existing, value) if free else value
            self._filled.add(id(self._renewed[place]))
        return self._renewed[place]

    def _array(self, _: Any, existing: Any, number: int, name: str, dtype: str, shape: list[int]) -> Any:
        value = self._values[name].view(dtype).reshape(shape)
        target = self._target(existing, np.ndarray)
        if target is None or target.dtype != value.dtype or target.shape != value.shape:
            target = value.copy()
        else:
            target[...] = value
        self._made[number] = target
        return target

    def _named(self, _: Any, existing: Any, number: int, name: str, items: list[Any]) -> Any:
        old = list(existing) if isinstance(existing, tuple) else []
        kind = self._classes.named(name)
        self._made[number] = tuple.__new__(kind, self._items(items, old))
        return self._made[number]

    def _generator(self, _: Any, existing: Any, number: int, where: str, state: Any) -> Any:
        resume = marks.resume if where == "neutral" else self._arrays.resume
        self._made[number] = resume(existing, self._value(state, None))
        return self._made[number]

    def _method(self, _: Any, existing: Any, owner: Any, name: str) -> Any:
        held = self._value(owner, getattr(existing, "__self__", None))
        if getattr(existing, "__self__", None) is held and existing.__name__ == name:
            return existing
        method = inspect.getattr_static(type(held), name)
        if not isinstance(method, types.FunctionType | classmethod):
            raise Malformed(f"{excerpt(name)} is no method of a {type(held).__name__}")
        return method.__get__(held, type(held))
