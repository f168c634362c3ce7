"""What people are shown of others' text commands no terminal, and says what it says in any language."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.values.text import LONGEST_EXCERPT, excerpt, printable


@given(st.text(st.characters()))
def test_what_is_shown_commands_no_terminal(text: str) -> None:
    shown = printable(text)
    assert all(each.isprintable() or each in "\n\t" or each.isspace() for each in shown)
    assert not set(shown) & set("\x1b\r\b\x07\x7f\x9b\u202e\u2028\ud800")
    shown.encode()
    if text.isascii() and text.isprintable():
        assert shown == text


def test_words_of_any_language_are_shown_as_they_are() -> None:
    text = "Verlust\tmüßig\n損失\u3000は有限"
    assert printable(text) == text


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


VALUES: dict[str, Any] = {
    "text": "漢" * 10**6,
    "number": 10**10_000,
    "numbers": [10**10_000],
    "list": list(range(10**5)),
    "broken": Broken(),
    "nest": {"a": [[[1]]]},
}


@pytest.mark.parametrize("kind", VALUES)
def test_any_value_is_shown_in_a_line(kind: str) -> None:
    assert 0 < len(excerpt(VALUES[kind])) <= LONGEST_EXCERPT + 1
    assert excerpt(VALUES[kind]).isprintable()
