"""What others have written: read within bounds, of the kinds that are asked for, or refused in words to show."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.values.text import printable
from unisono.values.untrusted import DEEPEST, Malformed, Maybe, check, content, document, opened, parsed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
KINDS = st.recursive(
    st.sampled_from([int, float, str, bool, list, dict, object]),
    lambda inner: (
        inner.map(Maybe) | inner.map(lambda kind: [kind]) | inner.map(lambda kind: {str: kind})
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
)  # fmt: skip


def outcome(reader: Callable[..., Any], *arguments: Any) -> Any:
    """What a reader gives, or how it refuses."""
    try:
        return reader(*arguments)
    except Malformed as error:
        return error if printable(str(error)) == str(error) else None


@given(st.binary() | st.text() | JSON.map(json.dumps))
def test_any_bytes_are_json_or_malformed(data: bytes | str) -> None:
    found = outcome(parsed, data)
    assert isinstance(found, Malformed) or json.loads(data) == found or "NaN" in str(data)


@given(JSON, KINDS)
def test_any_value_is_of_a_kind_or_malformed(value: Any, kind: Any) -> None:
    found = outcome(check, value, kind)
    assert found is value or "must be" in str(found)


@pytest.mark.parametrize("text", ["[" * 10**6, "[" * 10**5 + "]" * 10**5, '{"a":' * 900 + "1" + "}" * 900])
def test_what_is_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match=f"nested more than {DEEPEST} deep"):
        parsed(text)


def test_the_bound_is_on_depth_and_not_on_length() -> None:
    wide = [[{}]] * 1000
    assert parsed(json.dumps(wide)) == wide
    for deep, is_sound in ((DEEPEST, True), (DEEPEST + 1, False)):
        text = "[" * deep + "]" * deep
        if is_sound:
            assert parsed(text) is not None
        else:
            with pytest.raises(Malformed):
                parsed(text)
    assert parsed('"' + "[" * 1000 + '"') == "[" * 1000


@pytest.mark.parametrize(("value", "kind", "text"), [
    (True, int, "it must be a whole number; received True"),
    (2**63, int, "received 9223372036854775808"),
    (10**400, float, "must be a number"),
    ({"a": [1, "x"]}, {"a": [int]}, r"'a\[\]' must be a whole number; received 'x'"),
    ({}, {"a": str}, "'a' must be a text; received None"),
    ({"a": {"b": None}}, {str: {"b": bool}}, r"'a\.b' must be true or false"),
    ([], dict, "an object"),
    ({"\x1b[2J": 1}, {str: str}, r"must be a text"),
    ({"a": "x" * 10**6}, {"a": dict}, r"an object; received 'x+\.\.\.x+'$"),
])  # fmt: skip
def test_a_value_of_another_kind_is_named(value: Any, kind: Any, text: str) -> None:
    with pytest.raises(Malformed, match=text):
        check(value, kind)


def things(folder: Path) -> dict[str, Path]:
    """What stands where a file is wanted."""
    paths = {
        name: folder / name for name in ("nothing", "link", "folder", "pipe", "socket", "device", "zero\0", "n" * 300)
    }
    paths["link"].symlink_to("nowhere")
    paths["folder"].mkdir()
    os.mkfifo(paths["pipe"])
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(paths["socket"]))
    paths["device"] = Path("/dev/zero")
    return paths


def test_only_a_file_is_read_and_nothing_is_waited_for(tmp_path: Path) -> None:
    said = {}
    for name, path in things(tmp_path).items():
        with pytest.raises(Malformed) as raised:
            content(path)
        said[name] = str(raised.value)
        assert said[name].startswith(printable(str(path)))
    assert said["nothing"].endswith(": missing")
    assert said["link"].endswith(": missing (a link that leads nowhere)")
    assert said["folder"].endswith(": a folder, where a file is wanted")
    assert said["pipe"].endswith(": a pipe, where a file is wanted")
    assert said["device"].endswith(": a device, where a file is wanted")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(Malformed):
        opened(tmp_path / "pipe")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_is_no_larger_than_wanted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"four")
    assert content(path, 4) == b"four"
    os.truncate(path, 1 << 40)  # sparse
    with pytest.raises(Malformed, match=r"1,099,511,627,776 bytes, where at most 268,435,456 are wanted"):
        content(path)


def test_a_document_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"exit": "completed"}')
    assert document(path, {"exit": str}) == {"exit": "completed"}
    for data, text in (
        (b"[1]", "must be an object"),
        (b"\xff{}", "not JSON"),
        (b'{"exit": 1}', "'exit' must be a text"),
    ):
        path.write_bytes(data)
        with pytest.raises(Malformed, match=rf"run\.json: .*{text}"):
            document(path, {"exit": str})
