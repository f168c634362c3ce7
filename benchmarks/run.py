"""All contenders, interleaved in one go; medians, ratios and memory (`make bench`).

python benchmarks/run.py [--rounds 3] [--steps 80] [--cases mlp-32,cnn-256] [--optimizers sgd,adamw]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from models import CASES

HERE = Path(__file__).parent
WARM_UP = 10
CONTENDERS = ("unisono", "ddp", "limit")


def proportional_bytes(root: psutil.Process) -> int:
    """PSS of a process and its descendants: shared pages count once."""
    total = 0
    with suppress(psutil.Error):
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


def measure(contender: str, case: str, optimizer: str, steps: int, weigh: bool) -> tuple[list[float], int]:
    """Step times after warm-up (seconds), and the highest PSS seen (bytes) when `weigh`: reading it slows a run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        if contender == "unisono":
            out = Path(folder) / "run"
            command = [sys.executable, str(HERE / "unisono_run.py"), case, optimizer, str(steps), str(out)]
        else:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
                       str(HERE / "torch_worker.py"), contender, case, optimizer, str(steps), str(file)]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        peak = 0
        watched = psutil.Process(process.pid)
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.append(process.stderr.read() if process.stderr else ""))
        reader.start()
        while weigh and process.poll() is None:
            peak = max(peak, proportional_bytes(watched))
            time.sleep(0.5)
        process.wait()
        reader.join()
        if process.returncode:
            raise SystemExit(f"{contender} failed:\n{errors[0]}")
        if contender == "unisono":
            lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
            seconds = [json.loads(line)["step_seconds"] for line in lines]
        else:
            seconds = json.loads(file.read_text())
        return seconds[WARM_UP:], peak


def main() -> None:
    """Measure, print a table, keep the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--optimizers", default="sgd,adamw")
    arguments = parser.parse_args()
    settings = [(case, name) for case in arguments.cases.split(",") for name in arguments.optimizers.split(",")]
    raw: dict[str, dict[str, list[float]]] = {}
    memory: dict[str, dict[str, int]] = {}
    for turn in range(arguments.rounds):
        for case, name in settings:
            for contender in CONTENDERS[turn % 3 :] + CONTENDERS[: turn % 3]:
                seconds, _ = measure(contender, case, name, arguments.steps, weigh=False)
                raw.setdefault(f"{case} {name}", {}).setdefault(contender, []).extend(seconds)
    for case, name in settings:
        memory[f"{case} {name}"] = {
            contender: measure(contender, case, name, 2 * WARM_UP, weigh=True)[1] for contender in CONTENDERS
        }
    lines = [
        "| case | Unisono ms | DDP ms | limit ms | Unisono / DDP | limit / Unisono | PSS Unisono MiB | PSS DDP MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for setting, results in raw.items():
        median = {contender: 1e3 * statistics.median(values) for contender, values in results.items()}
        held = memory[setting]
        lines.append(
            f"| {setting} | {median['unisono']:.2f} | {median['ddp']:.2f} | {median['limit']:.2f} | "
            f"{median['unisono'] / median['ddp']:.2f} | {median['limit'] / median['unisono']:.2f} | "
            f"{held['unisono'] >> 20} | {held['ddp'] >> 20} |"
        )
    table = "\n".join(lines)
    print(table)
    results_folder = HERE / "results"
    results_folder.mkdir(exist_ok=True)
    about = {
        "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "warm_up": WARM_UP,
        "workers": 2,
        "threads": 1,
    }
    kept = {"settings": about, "seconds": raw, "pss_bytes": memory}
    (results_folder / "steps.json").write_text(json.dumps(kept) + "\n")
    (results_folder / "steps.md").write_text(table + "\n")


if __name__ == "__main__":
    main()
