"""JSON and safetensors that are well formed, or nearly, and make no sense."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

JSON_TEXTS: dict[str, bytes] = {
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "a number of 10,000 digits": b"1" * 10_000,
    "no UTF-8": b'{"exit": "\xff\xfe"}',
    "UTF-16": '{"exit": "completed"}'.encode("utf-16"),
    "null": b"null",
    "a number": b"17",
    "a text": b'"completed"',
    "a list": b"[]",
    "an object without anything": b"{}",
    "zeros": bytes(1000),
    "control characters": b'{"exit": "\\u001b[2J\\u0007", "process": "\\u001b]0;x\\u0007"}',
}
"""What stands in a file instead of its JSON."""

VALUES: dict[str, Any] = {
    "null": None, "a text": "x", "an empty text": "", "a list": [], "a nest": [[[{}]]], "an object": {"a": 1}, "-1": -1,
    "0": 0, "true": True, "2**70": 2**70, "1e308": 1e308, "NaN": float("nan"), "control characters": "\x1b[2J\x07",
    "a path upward": "../../../etc/passwd", "half a character": "\ud800", "a long text": "x" * 100_000,
}  # fmt: skip
"""Values that a field does not expect."""


def hostile_json(draw: Random, path: Path) -> str:
    """Change a field of a file of JSON, or of its lines; what it then is, for people."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = draw.randrange(len(lines))
    value = json.loads(lines[number])
    what = _change(draw, value)
    lines[number] = json.dumps(value)
    path.write_text("\n".join(lines) + "\n")
    return what


def sealed(draw: Random, path: Path) -> str:
    """Change a field of a checkpoint's state.json and give the whole its digest; what it then is, for people."""
    state = json.loads(path.read_text())
    del state["sha256"]
    what = _change(draw, state, tuple(state))
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**state, "sha256": digest}))
    return f"{what}, with the right digest"


def _change(draw: Random, value: dict[str, Any], among: tuple[str, ...] = ()) -> str:
    """Take a field out, or give it another value; within what it holds too."""
    key = draw.choice(sorted(among or value))
    inner = value.get(key)
    if isinstance(inner, dict) and inner and draw.random() < 0.5:
        return f"{key}: {_change(draw, inner)}"
    if draw.random() < 0.2:
        value.pop(key, None)
        return f"no {key}"
    name = draw.choice(sorted(VALUES))
    value[key] = VALUES[name]
    return f"{name} for {key}"


def _entry(header: dict[str, Any], draw: Random) -> tuple[str, dict[str, Any]]:
    name = draw.choice(sorted(name for name in header if name != "__metadata__"))
    return name, header[name]


def _field(field: str, value: Any) -> Callable[[dict[str, Any], Random], None]:
    def change(header: dict[str, Any], draw: Random) -> None:
        _entry(header, draw)[1][field] = value

    return change


def _renamed(new: str) -> Callable[[dict[str, Any], Random], None]:
    def change(header: dict[str, Any], draw: Random) -> None:
        name, entry = _entry(header, draw)
        del header[name]
        header[new] = entry

    return change


def _swapped(header: dict[str, Any], draw: Random) -> None:
    """Two tensors of one size take each other's place: all names and shapes are right."""
    sizes: dict[str, list[str]] = {}
    for name, entry in sorted(header.items()):
        if name != "__metadata__":
            sizes.setdefault(f"{entry['dtype']}{entry['shape']}", []).append(name)
    one, other = next((names for names in sizes.values() if len(names) > 1), [next(iter(header))] * 2)[:2]
    header[one]["data_offsets"], header[other]["data_offsets"] = (
        header[other]["data_offsets"], header[one]["data_offsets"],
    )  # fmt: skip


HEADERS: dict[str, Callable[[dict[str, Any], Random], None]] = {
    "an unknown dtype": _field("dtype", "F128"),
    "a dtype that is a number": _field("dtype", 32),
    "a dtype of as many bytes": _field("dtype", "I32"),
    "a shape of 2**62 elements": _field("shape", [2**31, 2**31]),
    "a negative shape": _field("shape", [-1]),
    "no shape": _field("shape", None),
    "offsets past the end": _field("data_offsets", [0, 2**40]),
    "offsets backwards": _field("data_offsets", [8, 0]),
    "another name": _renamed("another"),
    "a name of control characters": _renamed("\x1b[2J\x07"),
    "two tensors in each other's place": _swapped,
}
"""What is wrong in a header → its change."""

WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "a header of 2**63 bytes": lambda data: (2**63 - 1).to_bytes(8, "little") + data[8:],
    "a header of 0 bytes": lambda data: bytes(8) + data[8:],
    "a header that is no JSON": lambda data: data[:8] + b"\xff" * 64 + data[72:],
    "deep lists in the header": lambda data: (200_000).to_bytes(8, "little") + JSON_TEXTS["deep lists"],
    "an image": lambda data: b"\x89PNG\r\n\x1a\n" + data,
}
"""What is wrong in a file → its change."""


def hostile_tensors(draw: Random, path: Path) -> str:
    """Make a file of tensors one that is nearly right; what it then holds, for people."""
    data = path.read_bytes()
    what = draw.choice([*sorted(HEADERS), *sorted(WHOLE)])
    if what in WHOLE:
        path.write_bytes(WHOLE[what](data))
        return what
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    HEADERS[what](header, draw)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return what
