"""Disks that are full, read-only, frozen or gone, at any time of a run; and other things that a machine may lack."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random

from reliability.place import HANG_SECONDS, JOB, Done, Impossible, Place
from waiting import until

WHEN = ("before", "model", "middle", "late")
HEAVY_BYTES = 1 << 20
DISK = "size=24m,nr_inodes=400"


def disks(draw: Random, place: Place) -> None:
    """Something happens to the run folder's disk: training goes on, what was lost is said, what could be kept is."""
    what, when = draw.choice(sorted(TROUBLES)), draw.choice(WHEN)
    if what == "frozen" and when == "before":
        when = "model"  # nothing starts there
    mends = draw.random() < 0.5
    place.tries(f"the disk is {what} from phase {when} on{', for a while' if mends else ''}")
    with ExitStack() as mounted:
        mounted.enter_context(_filesystem(place.folder / "disk", ext4=what == "frozen"))
        place.out = place.folder / "disk" / "out"
        trouble = mounted.enter_context(ExitStack())
        if when == "before":
            trouble.enter_context(TROUBLES[what](place.out, draw))
        process = place.start(
            "train", JOB, f"heavy={HEAVY_BYTES}", "--workers", 2, "--checkpoint-every", 4, "--keep", 2, "--out",
            place.out, variables={"MEET": when},
        )  # fmt: skip
        if when != "before" and place.met(process):
            trouble.enter_context(TROUBLES[what](place.out, draw))
            place.go()
        if mends or what == "frozen":  # what is frozen holds up its writer, and nobody else
            if not _goes_on(place, process):
                place.wrong.append(f"training waits for the disk: {place.said()[-100:]!r}")
            trouble.close()
        done = place.ended(process)
        trouble.close()
        _judge(place, done, when)


def _goes_on(place: Place, process: subprocess.Popen[bytes]) -> bool:
    """Whether it trains on, or ends."""
    try:
        until(lambda: process.poll() is not None or "step 8 " in place.said(), "it goes on", HANG_SECONDS)
    except AssertionError:
        return False
    return True


def _judge(place: Place, done: Done, when: str) -> None:
    """It did not start, or has trained to the end: the bits are right, and 0 means that they are on disk."""
    statuses = (0, 1, 2) if when in ("before", "model") else (0, 1)
    if not place.check(done, *statuses, cut=True):
        return
    moved = [place.out.with_name(name) for name in MOVED]
    place.out = next((folder for folder in moved if (folder / "run.json").exists()), place.out)
    manifest, expected = place.manifest(), place.grounds.truth(12, HEAVY_BYTES)[0]
    if done.status == 0 and (manifest.get("parameters_sha256"), manifest.get("exit")) != (expected, "completed"):
        place.wrong.append(f"0, but run.json says {manifest.get('exit')!r} with {manifest.get('parameters_sha256')}")
    if done.status == 0 and not any(path.name.endswith("12") for path in place.checkpoints):
        place.wrong.append("0, but there is no checkpoint of the end")
    if done.status == 1 and not any(word in done.out + done.err for word in ("could not be", "cannot be", "must be")):
        place.wrong.append(f"what was lost is not said: {done.last}")
    if when in ("middle", "late") and manifest and manifest.get("steps_done", 12) != 12:
        place.wrong.append(f"training ended after {manifest['steps_done']} steps: {done.last}")
    place.resumes(must=done.status == 0, heavy=HEAVY_BYTES, records=False)


@contextmanager
def _filesystem(path: Path, ext4: bool) -> Iterator[None]:
    """A small file system of its own: in memory, or one that can be frozen."""
    path.mkdir()
    image = path.with_suffix(".image")
    if ext4:
        image.touch()
        os.truncate(image, 48 << 20)
        _do("mkfs.ext4", "-q", image)
        _do("mount", "-o", "loop", image, path)
    else:
        _do("mount", "-t", "tmpfs", "-o", DISK, "reliability", path)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def _do(*command: object) -> None:
    try:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Impossible(f"{command[0]} is not there") from error
    if done.returncode:
        raise Impossible(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


@contextmanager
def _full(out: Path, draw: Random) -> Iterator[None]:
    """But for some bytes."""
    filling, left = out.parent / "filling", draw.choice((0, 0, 5_000, 100_000, 1_500_000))
    with filling.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    os.truncate(filling, max(0, filling.stat().st_size - left))
    yield
    filling.unlink()


@contextmanager
def _without_inodes(out: Path, draw: Random) -> Iterator[None]:
    folder, left = out.parent / "many", draw.choice((0, 1, 3, 6))
    folder.mkdir()
    made: list[Path] = []
    with suppress(OSError):
        while True:
            made.append(folder / str(len(made)))
            made[-1].touch()
    for path in made[:left]:
        path.unlink()
    yield
    shutil.rmtree(folder)


@contextmanager
def _read_only(out: Path, draw: Random) -> Iterator[None]:
    """What is open to be written may be written, as on a disk that has had an error."""
    part = draw.choice((out, out / "checkpoints", out / "logs"))
    part = part if part.is_dir() else out.parent
    _do("mount", "--bind", part, part)
    try:
        _do("mount", "-o", "remount,bind,ro", part)
        yield
    finally:
        subprocess.run(["umount", "--lazy", part], check=True)


@contextmanager
def _frozen(out: Path, draw: Random) -> Iterator[None]:
    """Who writes to it waits, and cannot even be killed."""
    _do("fsfreeze", "--freeze", out.parent)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", out.parent], check=True)


def _changed(change: Callable[[Path], object]) -> Callable[[Path, Random], object]:
    @contextmanager
    def trouble(out: Path, draw: Random) -> Iterator[None]:
        if out.is_dir():
            change(out)
        yield

    return trouble


MOVED = ("renamed", "out-before")
"""Where a run folder is that has been moved while it was written to."""


def _replace(path: Path) -> None:
    path.rename(path.with_name(path.name + "-before"))
    path.write_text("in the way")


TROUBLES: dict[str, Callable[..., object]] = {
    "full": _full,
    "without inodes": _without_inodes,
    "read-only": _read_only,
    "frozen": _frozen,
    "without the run folder": _changed(shutil.rmtree),
    "without logs": _changed(lambda out: shutil.rmtree(out / "logs")),
    "holding the run folder by another name": _changed(lambda out: out.rename(out.with_name("renamed"))),
    "holding a file instead of the run folder": _changed(_replace),
    "holding a file instead of checkpoints": _changed(
        lambda out: _replace(out / "checkpoints") if (out / "checkpoints").exists() else (out / "checkpoints").touch()
    ),
    "holding another run folder": _changed(lambda out: (out.rename(out.with_name("renamed")), out.mkdir())),
}


def machines(draw: Random, place: Place) -> None:
    """A machine that lacks something: it trains without, or says what is missing and does not start."""
    what = draw.choice(sorted(LACKS))
    place.tries(f"a machine with {what}")
    _do("unshare", "--mount", "true")
    script = f'{LACKS[what]} || exit 77; exec "$@"'
    done = place.command(
        "train", JOB, "--workers", draw.choice((1, 2, 3)), "--checkpoint-every", 4, "--out", place.out,
        before=("unshare", "--mount", "sh", "-c", script, "sh"),
    )  # fmt: skip
    if done.status == 77:
        raise Impossible(f"{what}: {done.last}")
    if place.check(done, 0, 1, 2, cut="open files" in what):
        if done.status == 0:
            place.hold_to(12, done.parameters, records=True)
        elif not done.err.startswith("unisono: "):
            place.wrong.append(f"what is missing is not said: {done.last}")


LACKS = {
    "/dev/shm read-only": "mount -t tmpfs -o ro none /dev/shm",
    "/dev/shm full": "mount -t tmpfs -o size=4k none /dev/shm && (cat /dev/zero > /dev/shm/full 2> /dev/null; true)",
    "no /dev/shm": "mount -t tmpfs none /dev/shm && umount /dev/shm && mount -t tmpfs -o size=0,ro,nr_inodes=1 none "
                   "/dev/shm",
    "/tmp read-only": 'mount -t tmpfs -o ro none "$TMPDIR"',
    "/tmp full": 'mount -t tmpfs -o size=4k none "$TMPDIR" && (cat /dev/zero > "$TMPDIR/full" 2> /dev/null; true)',
    "no /tmp": "export TMPDIR=/nowhere",
    **{f"{number} open files": f"ulimit -n {number}" for number in (16, 20, 24, 32, 48, 64, 128)},
    "files of 64 KiB at most": "ulimit -f 128",
    "no home": "unset HOME; export HOME=/nowhere",
    "no terminal variables": "unset TERM COLUMNS; export TERM=nonsense",
    "no PATH": "export PATH=",
}  # fmt: skip
"""What a machine lacks → how it comes about, in a mount namespace of its own."""
