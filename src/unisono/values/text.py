"""Text and values of others as people are shown them: bounded, and without what commands a terminal."""

from __future__ import annotations

import reprlib
import unicodedata
from typing import Any

LONGEST_EXCERPT = 80
"""Characters of a value that an error shows."""

MOST_SHOWN_BITS = 256

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = LONGEST_EXCERPT
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxfrozenset = _SHORT.maxdict = LONGEST_EXCERPT // 4


def printable(text: str) -> str:
    """A text that cannot command a terminal: control characters but tabs and line ends are written out.

    >>> printable("loss" + chr(27) + "[2J" + chr(0x202E))
    'loss\\\\x1b[2J\\\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(each if each in "\n\t" or _is_shown(each) else ascii(each)[1:-1] for each in text)


def _is_shown(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] != "C" and category not in ("Zl", "Zp")


def excerpt(value: Any) -> str:
    """A value as errors show it, however long it is.

    >>> len(excerpt("a" * 10**6)), excerpt(["b"]), excerpt(-(10**10_000))
    (80, "['b']", 'a number of 33220 bits')
    """
    if isinstance(value, int) and value.bit_length() > MOST_SHOWN_BITS:
        return f"a number of {value.bit_length()} bits"
    try:
        text = printable(_SHORT.repr(value))
    except Exception:  # somebody else's class
        return f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_EXCERPT else text[:LONGEST_EXCERPT] + "…"
