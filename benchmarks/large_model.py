"""What a large model waits for before its first step and after its last (`make bench-large`).

python benchmarks/large_model.py [--rounds 5]

GPT-2 small (124 M parameters, AdamW): seconds from the command to the end of the first step, and from the end of the
last to the end of the command, beside a plain PyTorch loop on as many cores, which saves nothing. The disk's own time
is that of writing as many bytes as the run leaves, in one go, and syncing them. All take turns in each round.
Memory is the highest PSS of all processes of a run of its own: looking at it slows a run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from run import proportional_bytes

HERE = Path(__file__).parent
JOB = HERE / "peers" / "gpt2.py"
STEPS = 3

PARAMETERS = 124_439_808
LOOK_SECONDS = 0.1

Figures = dict[str, float]


def run(command: list[str], told: Path) -> Figures:
    """Run a contender; CPU seconds are those of all its processes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ended, after = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    steps = [float(line) for line in told.read_text().splitlines()]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "before": steps[0] - started,
        "step": (steps[-1] - steps[0]) / (len(steps) - 1),
        "after": ended - steps[-1],
        "cpu": cpu,
    }


def peak(command: list[str]) -> int:
    """The highest PSS (bytes) of a contender's processes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    watched, highest = psutil.Process(process.pid), 0
    while process.poll() is None:
        highest = max(highest, proportional_bytes(watched))
        time.sleep(LOOK_SECONDS)
    return highest


def contenders(folder: Path) -> dict[str, list[str]]:
    """The commands; each tells of its steps in a file of its name."""
    unisono = [sys.executable, "-m", "unisono", "train", str(JOB), f"told={folder / 'unisono'}", f"steps={STEPS}",
               "--workers", "2", "--out", str(folder / "run")]  # fmt: skip
    return {"unisono": unisono, "plain": [sys.executable, str(JOB), str(folder / "plain"), str(STEPS)]}


def memory() -> dict[str, Figures]:
    """What each contender holds at most."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        held = {kind: peak(command) for kind, command in contenders(Path(name)).items()}
    return {kind: {"peak": float(count), "per_parameter": count / PARAMETERS} for kind, count in held.items()}


def disk(path: Path, count: int) -> Figures:
    """Write so many bytes and sync them."""
    piece = os.urandom(4 << 20)
    started = time.monotonic()
    with path.open("wb") as file:
        for start in range(0, count, len(piece)):
            file.write(piece[: count - start])
        file.flush()
        os.fsync(file.fileno())
    return {"write": time.monotonic() - started}


def left(folder: Path) -> int:
    """Bytes of the files in a folder; one that has two names counts once."""
    found = {file.stat().st_ino: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    return sum(found.values())


def round_(number: int) -> dict[str, Figures]:
    """Every contender once."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # a real disk: /tmp may be memory
        folder = Path(name)
        figures = {}
        for kind, command in sorted(contenders(folder).items(), reverse=bool(number % 2)):
            figures[kind] = run(command, folder / kind)
        count = left(folder / "run")
        figures["disk"] = {**disk(folder / "bytes", count), "bytes": float(count)}
    return figures


def main() -> None:
    """Measure, print, keep the raw figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "large_model.json")
    arguments = parser.parse_args()
    rounds = []
    for number in range(arguments.rounds):
        rounds.append(round_(number))
        print(json.dumps(rounds[-1]), flush=True)
    medians = {
        kind: {key: round(statistics.median(figures[kind][key] for figures in rounds), 2) for key in rounds[0][kind]}
        for kind in rounds[0]
    }
    settings = {
        "rounds": arguments.rounds, "steps": STEPS, "torch": torch.__version__, "cores": os.cpu_count(),
        "kernel": platform.release(), "load": os.getloadavg()[2], "at": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    held = memory()
    results = {"settings": settings, "medians": medians, "memory": held, "rounds": rounds}
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"before the first step is over: {medians['unisono']['before']} s, plain {medians['plain']['before']} s")
    print(f"after the last: {medians['unisono']['after']} s, the disk alone {medians['disk']['write']} s")
    print("bytes a parameter:", ", ".join(f"{kind} {each['per_parameter']:.1f}" for kind, each in held.items()))


if __name__ == "__main__":
    main()
