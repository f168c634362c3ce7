"""All contenders, interleaved in one go; medians, ratios and memory (`make bench`).

python benchmarks/run.py [--rounds 2] [--steps 40] [--cases mlp-32,cnn-256] [--optimizers sgd,adamw]

Cases that are measured replace what `results/steps.json` has of them.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from models import CASES, case_named

from unisono.partition.batches import default_microbatches

HERE = Path(__file__).parent
RESULTS = HERE / "results"
WARM_UP = 10
WORKERS = 2


@dataclass(frozen=True)
class Contender:
    """One way to train a case on two cores.

    Attributes:
        kind: "unisono", "ddp", "limit" (the same processes without synchronisation), or "process" (one, whose
            operations use both cores).
        microbatches: pieces of a batch, of Unisono and the limit.
    """

    kind: str
    microbatches: int = WORKERS

    def __str__(self) -> str:
        return f"{self.kind} {self.microbatches}" if self.kind in ("unisono", "limit") else self.kind

    def command(self, case: str, optimizer: str, steps: int, folder: Path) -> list[str]:
        """How it is started; it leaves a run folder, or seconds.json."""
        if self.kind == "unisono":
            script = [HERE / "unisono_run.py", case, optimizer, steps, folder / "run"]
            return [sys.executable, *map(str, script), "--microbatches", str(self.microbatches)]
        processes = 1 if self.kind == "process" else WORKERS
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        script = [HERE / "torch_worker.py", self.kind, case, optimizer, steps, folder / "seconds.json"]
        return [*launcher, *map(str, script), str(self.microbatches // WORKERS)]


def contenders(case: str) -> list[Contender]:
    """Who competes in a case: Unisono as a job gets it that does not say, and with one microbatch a worker."""
    cuts = sorted({default_microbatches(case_named(case).batch_size), WORKERS}, reverse=True)
    return [*(Contender(kind, cut) for cut in cuts for kind in ("unisono", "limit")), Contender("ddp"),
            Contender("process")]  # fmt: skip


def proportional_bytes(root: psutil.Process) -> int:
    """PSS of a process and its descendants: shared pages count once."""
    total = 0
    with suppress(psutil.Error):
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


def measure(
    contender: Contender, case: str, optimizer: str, steps: int, weigh: bool = False
) -> tuple[list[float], int]:
    """Step times after warm-up (seconds), and the highest PSS seen (bytes) when `weigh`: reading it slows a run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = contender.command(case, optimizer, steps + WARM_UP, folder)
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
        if contender.kind == "unisono":
            lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
            seconds = [json.loads(line)["step_seconds"] for line in lines]
        else:
            seconds = json.loads((folder / "seconds.json").read_text())
        return seconds[WARM_UP:], peak


def table(results: dict[str, Any]) -> str:
    """Medians and ratios as Markdown: for each setting Unisono's default first, then a microbatch a worker."""
    lines = [
        "| case | microbatches | Unisono ms | limit ms | DDP ms | one process ms | Unisono / DDP | Unisono / process "
        "| PSS MiB: Unisono | DDP | one process |",
        "| --- " * 11 + "|",
    ]
    for setting, found in results.items():
        took = {name: 1e3 * statistics.median(seconds) for name, seconds in found["seconds"].items()}
        held = {name: str(size >> 20) for name, size in found["pss_bytes"].items()}
        default = default_microbatches(case_named(setting.split()[0]).batch_size)
        for cut in sorted({default, WORKERS}, reverse=True):
            names = [*["default"] * (cut == default), *["a worker each"] * (cut == WORKERS)]
            ours, peers = took[f"unisono {cut}"], (took["ddp"], took["process"])
            row = [setting, f"{cut}: {', '.join(names)}", f"{ours:.1f}", f"{took[f'limit {cut}']:.1f}",
                   *(f"{peer:.1f}" for peer in peers), *(f"{ours / peer:.2f}" for peer in peers),
                   held[f"unisono {cut}"], held["ddp"], held["process"]]  # fmt: skip
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print a table, keep the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--optimizers", default="sgd,adamw")
    arguments = parser.parse_args()
    file = RESULTS / "steps.json"
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"results": {}}
    settings = [(case, name) for case in arguments.cases.split(",") for name in arguments.optimizers.split(",")]
    for case, optimizer in settings:
        competing, seconds = contenders(case), dict[str, list[float]]()
        for turn in range(arguments.rounds):
            for contender in competing[turn % len(competing) :] + competing[: turn % len(competing)]:
                seconds.setdefault(str(contender), []).extend(measure(contender, case, optimizer, arguments.steps)[0])
        pss = {str(c): measure(c, case, optimizer, WARM_UP, weigh=True)[1] for c in competing if c.kind != "limit"}
        kept["results"][f"{case} {optimizer}"] = {"seconds": seconds, "pss_bytes": pss}
    kept["settings"] = {
        "cpu": platform.processor() or platform.machine(), "torch": torch.__version__, "rounds": arguments.rounds,
        "steps": arguments.steps, "warm_up": WARM_UP, "workers": WORKERS, "threads": 1,
    }  # fmt: skip
    print(table(kept["results"]))
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps(kept) + "\n")
    (RESULTS / "steps.md").write_text(table(kept["results"]) + "\n")


if __name__ == "__main__":
    main()
