"""A file of a run folder is damaged, and then used: by `predict`, `evaluate`, `--resume`, `Run.status`, `Run.model`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from reliability.hostile import JSON_TEXTS, hostile_json, hostile_tensors, sealed
from reliability.place import JOB, WORD, Done, Place

FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    "run.json": (("predict", "final"), ("predict", "best"), ("evaluate", "final"), ("model", "final"), ("status",),
                 ("resume",)),
    "metrics.jsonl": (("resume",),),
    "parameters.safetensors": (("predict", "final"), ("evaluate", "final"), ("model", "final"), ("resume",)),
    "checkpoints/step-00000012/parameters.safetensors": (("resume",), ("model", "12"), ("evaluate", "12")),
    "checkpoints/step-00000012/optimizer.safetensors": (("resume",), ("model", "12")),
    "checkpoints/step-00000012/state.json": (("resume",), ("predict", "12")),
    "checkpoints/step-00000008/parameters.safetensors": (("predict", "8"), ("evaluate", "8"), ("model", "8")),
    "checkpoints/step-00000008/state.json": (("predict", "8"), ("status",)),
}  # fmt: skip
"""File → what is asked of it: a command, and the step."""

BROKEN = ("a bit", "cut", "empty", "longer", "missing", "a folder", "a pipe", "a link to nothing", "a link to itself",
          "huge")  # fmt: skip
HUGE_BYTES = 1 << 43
"""More than any machine's memory; a file of so many zeros takes no room on the disk."""


def damage(draw: Random, place: Place) -> None:
    """Break a file anyhow: it is refused, or not needed."""
    name, ask = _drawn(draw)
    how = draw.choice(BROKEN)
    _begin(place)
    path = place.out / name
    what = _break(draw, path, how)
    _link_again(draw, place, name)
    place.tries(f"{name} is {what}, then {' '.join(ask)}")
    _ask(place, ask)


def hostile(draw: Random, place: Place) -> None:
    """Put into a file what is of its format and makes no sense: it is refused, or not needed."""
    name, ask = _drawn(draw)
    _begin(place)
    path = place.out / name
    if name.endswith("safetensors"):
        what = hostile_tensors(draw, path)
    elif name.endswith("state.json") and draw.random() < 0.7:
        what = sealed(draw, path)
    elif draw.random() < 0.5:
        what = draw.choice(sorted(JSON_TEXTS))
        path.write_bytes(JSON_TEXTS[what])
    else:
        what = hostile_json(draw, path)
    place.tries(f"{name} holds {what}, then {' '.join(ask)}")
    _ask(place, ask)


def _drawn(draw: Random) -> tuple[str, tuple[str, ...]]:
    """A file, and what is asked of it."""
    name = draw.choice(sorted(FILES))
    return name, draw.choice(FILES[name])


def _begin(place: Place) -> None:
    shutil.copytree(place.grounds.run, place.out)


def _link_again(draw: Random, place: Place, name: str) -> None:
    """The final parameters are the last checkpoint's under a second name, as they were; or a copy, as on some disks."""
    final = place.out / "parameters.safetensors"
    last = place.out / "checkpoints" / "step-00000012" / final.name
    damaged = place.out / name
    if damaged in (final, last) and damaged.is_file() and draw.random() < 0.5:
        other = last if damaged == final else final
        other.unlink()
        os.link(damaged, other)


def _break(draw: Random, path: Path, how: str) -> str:
    """Break a file; what it then is, for people."""
    size = path.stat().st_size
    at = draw.randrange(size)
    if how == "a bit":
        data, bit = bytearray(path.read_bytes()), draw.randrange(8)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        return f"changed in bit {bit} of byte {at}"
    if how in ("cut", "empty", "longer", "huge"):
        length = {"cut": at, "empty": 0, "longer": size + 1 + at, "huge": HUGE_BYTES}[how]
        os.truncate(path, length)
        return f"{how} ({length} bytes)"
    path.unlink()
    makes: dict[str, Callable[[], object]] = {
        "missing": lambda: None, "a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path),
        "a link to nothing": lambda: path.symlink_to("nowhere"), "a link to itself": lambda: path.symlink_to(path.name),
    }  # fmt: skip
    makes[how]()
    return how


def _ask(place: Place, ask: tuple[str, ...]) -> None:
    """Ask; the answer is that of the undamaged run, or a refusal that names what is wrong."""
    answers = place.grounds.answers
    if ask not in answers and ask != ("resume",):
        whole = place.forked(*command_of(place.grounds.run, ask))
        assert whole.status == 0, whole.last
        answers[ask] = whole.out
    done = place.forked(*command_of(place.out, ask))
    if not place.check(done, 0, 1, 2):
        return
    if done.status:
        _is_refused_well(place, done)
    elif ask == ("resume",):
        place.hold_to(16, done.parameters)
    elif done.out != answers[ask]:
        place.wrong.append(f"another answer in silence: {done.out[:80]!r}, not {answers[ask][:80]!r}")


def _is_refused_well(place: Place, done: Done) -> None:
    """A refusal names the folder or a file in it, and is not endless."""
    if str(place.out) not in done.err + done.out:
        place.wrong.append(f"the refusal names no file: {done.last}")
    if len(done.err) > 4000:
        place.wrong.append(f"the refusal has {len(done.err)} characters: {done.last}")


def command_of(folder: Path, ask: tuple[str, ...]) -> list[object]:
    """The command that asks this of a run."""
    what, *at = ask
    if what == "predict":
        return ["unisono", "predict", JOB, folder, WORD, "--at", *at]
    if what == "evaluate":
        return ["unisono", "evaluate", JOB, folder, "--workers", 1, "--at", *at]
    if what == "resume":
        return ["unisono", "train", JOB, "steps=16", "--resume", folder, "--debug"]
    return ["asked", what, folder, *at]
