"""How long a small job waits: for its first step, for a world of `verify`, for help (`make bench-startup`).

python benchmarks/startup.py [--rounds 5]

Protocol: the digits jobs on 2 workers × 1 thread, each command in a process of its own, in turn; medians. The first
step is there when metrics.jsonl holds a line. Beside each: the same model, data and optimizer in a plain script up to
its first update, which is what importing and compiling take anyway. A world of `verify` is what three more of them add,
by three. CPU seconds are those of all processes of a command to its end: they hardly depend on what else the machine
does.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
LOOK_SECONDS = 0.005

Seconds = dict[str, float]


def cpu_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(command: list[str], first: Path | None = None) -> Seconds:
    """Run a command to its end.

    Args:
        command: what.
        first: a file whose first bytes are timed too.
    """
    before, started, came = cpu_seconds(), time.monotonic(), None
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while first is not None and came is None and process.poll() is None:
            if first.exists() and first.stat().st_size:
                came = time.monotonic() - started
            time.sleep(LOOK_SECONDS)
        if process.wait():
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read().decode(errors='replace')}")
    seconds = {"seconds": time.monotonic() - started, "cpu_seconds": cpu_seconds() - before}
    return seconds if came is None else {"first_step_seconds": came, **seconds}


def unisono(*arguments: object) -> list[str]:
    """The command."""
    return [sys.executable, "-m", "unisono", *map(str, arguments)]


def trained(name: str) -> Seconds:
    """A few steps of a digits job."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = unisono("train", EXAMPLES / f"digits_{name}.py", "--steps", 2, "--workers", 2, "--out", out)
        return measured(command, out / "metrics.jsonl")


def plain(name: str) -> Seconds:
    """The same model, data and optimizer in a plain script, up to its first update."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        return measured([sys.executable, str(HERE / "peers" / "first_step.py"), name, str(told)], told)


def a_world() -> Seconds:
    """What a world of `verify` adds."""
    command = partial(unisono, "verify", EXAMPLES / "digits_torch.py", "--steps", 4, "--workers")
    few, many = measured(command("2")), measured(command("2,2,2,2"))
    return {name: (many[name] - few[name]) / 3 for name in few}


CASES: dict[str, Callable[[], Seconds]] = {
    "import unisono": lambda: measured([sys.executable, "-c", "import unisono"]),
    "unisono --help": lambda: measured(unisono("--help")),
    "PyTorch": lambda: trained("torch"),
    "PyTorch, a plain script": lambda: plain("torch"),
    "Keras": lambda: trained("keras"),
    "Keras, a plain script": lambda: plain("keras"),
    "JAX": lambda: trained("jax"),
    "JAX, a plain script": lambda: plain("jax"),
    "a world of verify": a_world,
}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[str, list[Seconds]] = {name: [] for name in CASES}
    for number in range(rounds):
        for name, case in CASES.items():
            found[name].append(case())
            print(f"round {number + 1} of {rounds}: {name}: {found[name][-1]}", flush=True)
    medians = {
        name: {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        for name, runs in found.items()
    }
    results = {"rounds": rounds, "medians": medians, "runs": found}
    print(json.dumps(medians, indent=2))
    (HERE / "results" / "startup.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
