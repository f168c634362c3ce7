"""What comes from elsewhere: requests at the control socket of a running run, bytes between hosts."""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import ExitStack, suppress
from random import Random

import numpy as np
import torch

from jobs import FOR_EVER
from reliability.hostile import JSON_TEXTS, VALUES
from reliability.place import HANG_SECONDS, JOB, Place
from unisono.frameworks.pytorch.data import Data
from unisono.hosts.sample_bytes import encoded
from waiting import limit, until

MOST = 50
"""Who ask at the same time."""


def messages(draw: Random, place: Place) -> None:
    """A running run hears nonsense: it answers or hangs up, and goes on; who asks in earnest is answered."""
    what, message = _message(draw)
    ends, many = draw.choice(("waits", "hangs up", "stays")), draw.choice((1, 1, MOST))
    place.tries(f"{what}, {many} times; who sends it {ends}")
    process = place.start("train", JOB, f"steps={FOR_EVER}", "--workers", 1, "--out", place.out)
    with suppress(AssertionError):
        until(lambda: process.poll() is not None or place.records(), "it trains", HANG_SECONDS)
    with ExitStack() as open_, suppress(OSError):
        for _ in range(many):
            _say(place, message, ends, open_)
        before = place.records()
        with suppress(AssertionError):
            until(lambda: process.poll() is not None or place.records() > before, "it goes on", HANG_SECONDS)
        answer = _say(place, b'{"resize": 2}\n', "waits", open_)
        if answer.get("workers") != 2:
            place.wrong.append(f"who asks in earnest is answered {answer}")
    if process.poll() is None:
        process.terminate()
    if place.check(place.ended(process), 143):
        manifest = place.manifest()
        place.hold_to(manifest["steps_done"], manifest["parameters_sha256"], records=True, stopped=True)


def _message(draw: Random) -> tuple[str, bytes]:
    """What is sent, for people, and the bytes."""
    kind = draw.choice(("a text", "a text", "a field", "a field", "bytes", "bytes", "nothing"))
    if kind == "a text":
        name = draw.choice(sorted(JSON_TEXTS))
        return name, JSON_TEXTS[name] + b"\n"
    if kind == "a field":
        name, key = draw.choice(sorted(VALUES)), draw.choice(("resize", "", "unknown"))
        return f"{name} for {key!r}", json.dumps({key: VALUES[name]}).encode() + b"\n"
    if kind == "bytes":
        return "random bytes", draw.randbytes(draw.randrange(1, 20_000)) + draw.choice((b"", b"\n"))
    return "nothing", b""


def _say(place: Place, message: bytes, ends: str, stack: ExitStack) -> dict[str, object]:
    """Send a message; returns the answer, if it is waited for."""
    end = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    end.settimeout(limit())
    folder = os.open(place.out, os.O_PATH)
    stack.callback(os.close, folder)
    end.connect(f"/proc/self/fd/{folder}/control.sock")
    with suppress(OSError):
        end.sendall(message)
        if ends == "hangs up":
            end.close()
        elif ends == "waits" and message.endswith(b"\n"):
            answer = json.loads(end.makefile("rb").readline() or b"{}")
            return dict(answer) if isinstance(answer, dict) else {"no object": answer}
    return {}


def between_hosts(draw: Random, place: Place) -> None:
    """Samples from another host, changed on the way, are refused, or are samples; nothing crashes."""
    sample = [(torch.arange(6.0).reshape(2, 3), 1), {"text": "漢字", "n": np.float32(2)}, [b"bytes", None, True]]
    message = bytearray(encoded(sample, Data()))
    how = draw.choice(("a bit", "a bit", "cut", "another word"))
    at = draw.randrange(len(message))
    if how == "a bit":
        message[at] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del message[at:]
    else:
        what, text = _structure(draw)
        how, message = what, bytearray(struct.pack("=q", len(text)) + text + bytes(64))
    place.tries(f"{how}, of {len(message)} bytes, at {at}")
    path = place.folder / "message"
    path.write_bytes(message)
    place.check(place.forked("asked", "decoded", path), 0, 1, 2)


def _structure(draw: Random) -> tuple[str, bytes]:
    """A message that is well formed and makes no sense."""
    dtype = draw.choice(("O", "<f4", "V8", "object", "<U1000000", "i4,O", "no such", "<M8[s]", "|b1", "", "<c64"))
    shape = draw.choice(([2], [2**62], [-1], [2**40, 0], [], "x", [1.5], [[2]], None))
    kind = draw.choice(("array", "tensor", "scalar", "bytes", "dict", "tuple", "plain", "other", ""))
    if draw.random() < 0.3:
        name = draw.choice(sorted(JSON_TEXTS))
        return name, JSON_TEXTS[name]
    content = draw.choice((dtype, [[kind, 1]], [[["a"], ["plain", 1]]], 3)) if kind in ("dict", "tuple") else dtype
    return f"{kind} of {dtype} and {shape}", json.dumps([kind, content, shape, "float32"]).encode()
