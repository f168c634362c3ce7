"""Plain values: what travels with every call because a script may change it in between."""

from __future__ import annotations

from typing import Any

_KINDS = (int, float, complex, str, bytes, bool, type(None))
_MOST_ITEMS = 64


def is_plain(value: Any, depth: int = 2) -> bool:
    """Whether a value is a number, a text, None, or a small list, tuple, set or dictionary of such.

    >>> is_plain([1, "a", None]), is_plain({"a": (1.5, True)}), is_plain(object()), is_plain([object()])
    (True, True, False, False)
    """
    if type(value) in _KINDS:
        return True
    if depth == 0 or type(value) not in (list, tuple, set, frozenset, dict) or len(value) > _MOST_ITEMS:
        return False
    items = [*value.keys(), *value.values()] if type(value) is dict else value
    return all(is_plain(item, depth - 1) for item in items)


def copied(value: Any) -> Any:
    """A plain value that nobody else changes.

    >>> kept = [1, [2]]
    >>> copied(kept) == kept, copied(kept) is kept
    (True, False)
    """
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(copied(item) for item in value)
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    return value
