"""What `make demo` shows: a worker is killed while it trains, and the result is that of every undisturbed run.

python tools/demo.py [RUN_DIR]
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import psutil
from rich.console import Console

ROOT = Path(__file__).parent.parent
JOB = (os.path.relpath(ROOT / "examples" / "digits_torch.py"), "epochs=5")
STEPS, KILLED_AFTER = 60, 20

console = Console(highlight=False, markup=False, soft_wrap=True)


def started(*arguments: str, stdout: int | None = None) -> subprocess.Popen[str]:
    """A command of Unisono's, shown and started."""
    console.print("\n$", shlex.join(["unisono", *arguments]), style="bold")
    shown = {**os.environ, "COLUMNS": str(shutil.get_terminal_size().columns)}
    return subprocess.Popen([sys.executable, "-m", "unisono", *arguments], env=shown, text=True, stdout=stdout)


def ended(process: subprocess.Popen[str]) -> str:
    """What a command has printed, if that was not to the terminal."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(output or process.returncode)
    return output or ""


def losses(metrics: Path) -> int:
    """How many steps a run has recorded so far."""
    return metrics.read_text().count('"loss"') if metrics.exists() else 0


def train_and_kill(folder: str) -> str:
    """The parameters' hash of a run that loses a worker.

    Args:
        folder: of the run.
    """
    training = started("train", *JOB, "--workers", "2", "--out", folder)
    while losses(Path(folder, "metrics.jsonl")) < KILLED_AFTER:
        if training.poll() is not None:
            raise SystemExit(training.returncode or "The run ended before a worker could be killed.")
        time.sleep(0.02)
    processes = psutil.Process(training.pid).children(recursive=True)
    victim = next(process for process in processes if process.name() == "unisono-worker")
    console.print(f"\n$ kill -KILL {victim.pid}    # a worker, in the middle of an epoch", style="bold red")
    victim.kill()
    ended(training)
    return str(json.loads(Path(folder, "run.json").read_text())["parameters_sha256"])


def main(folder: str = f"runs/demo-{datetime.now():%Y%m%d-%H%M%S}") -> None:
    """Train with a death, then undisturbed on one to four workers: one hash."""
    disturbed = train_and_kill(folder)
    table = ended(started("verify", *JOB, "--steps", str(STEPS), stdout=subprocess.PIPE))
    console.print(table)
    if disturbed not in "".join(table.split()):
        raise SystemExit(
            f"The run that lost a worker has other parameters: {disturbed}. This is a bug: please report it."
        )
    console.print("They are those of the run that lost a worker.", style="bold green")


if __name__ == "__main__":
    main(*sys.argv[1:])
