"""Where the command writes: closed, full, never read, gone, or unable to say it."""

from __future__ import annotations

import os
import pty
import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random

from reliability.place import HANG_SECONDS, JOB, WORD, Place
from waiting import until

PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENCODINGS = {"ascii": {**PLAIN, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
             "latin-1": {**PLAIN, "PYTHONIOENCODING": "latin-1"}}  # fmt: skip
OUTPUTS = ("full", "closed", "head", "unread pipe", "unread terminal", "closed terminal", *ENCODINGS)


def streams(draw: Random, place: Place) -> None:
    """What nobody can read is not needed to train: the bits are the same, and the exit status 0."""
    output = draw.choice(OUTPUTS)
    which = draw.choice((("stdout",), ("stderr",), ("stdout", "stderr")))
    command = draw.choice(("train", "train", "train", "predict", "evaluate"))
    place.out = place.folder / draw.choice(("out", "漢字"))
    place.tries(f"{command} in {place.out.name}, with {' and '.join(which)}: {output}")
    if command == "train":
        _trains(place, output, which, draw.choice((1, 2)))
    else:
        _answers(place, output, which, command)


def _trains(place: Place, output: str, which: tuple[str, ...], workers: int) -> None:
    arguments = ("train", JOB, "--workers", workers, "--checkpoint-every", 4, "--out", place.out)
    _run(place, output, which, arguments, lambda: place.manifest().get("exit") == "completed", (0,))
    manifest = place.manifest()
    if manifest.get("exit") != "completed":
        place.wrong.append(f"run.json says {manifest.get('exit')!r}: {str(manifest.get('error'))[:200]}")
    place.hold_to(12, manifest.get("parameters_sha256"), records=True)


def _answers(place: Place, output: str, which: tuple[str, ...], command: str) -> None:
    """An answer that could not be written is no success, if the system says so."""
    folder, more = place.grounds.run, (WORD,) if command == "predict" else ("--workers", 1)
    lost = "stdout" in which and output == "full"
    _run(place, output, which, (command, JOB, folder, *more), lambda: False, (1,) if lost else (0, 1))


def _run(
    place: Place, output: str, which: tuple[str, ...], arguments: tuple[object, ...], is_done: Callable[[], bool],
    statuses: tuple[int, ...],
) -> None:  # fmt: skip
    """Run a command with such an output; what has to be done is done before anybody reads what was not read."""
    ours, theirs = _ends(output)
    streams = {} if theirs is None else dict.fromkeys(which, theirs)
    closes = "".join(f" {1 + (name == 'stderr')}>&-" for name in which) if output == "closed" else ""
    before = ("sh", "-c", f'exec "$@"{closes}', "sh") if closes else ()
    process = place.start(*arguments, variables=ENCODINGS.get(output), before=before, **streams)
    if theirs is not None:
        os.close(theirs)
    if ours is not None and output in ("head", "closed terminal"):
        with suppress(OSError):
            os.read(ours, 1)
        os.close(ours)
    elif ours is not None:
        with suppress(AssertionError):
            until(lambda: is_done() or process.poll() is not None, "it is done", HANG_SECONDS)
        threading.Thread(target=_read, args=(ours,)).start()
    done = place.ended(process)
    place.check(done, *statuses)


def _ends(output: str) -> tuple[int | None, int | None]:
    """Our end of an output and theirs."""
    if output == "full":
        return None, os.open("/dev/full", os.O_WRONLY)
    if output in ("head", "unread pipe"):
        return os.pipe()
    if output.endswith("terminal"):
        return pty.openpty()
    return None, None


def _read(end: int) -> None:
    """Read to the end."""
    with suppress(OSError):
        while os.read(end, 1 << 16):
            pass
    os.close(end)
