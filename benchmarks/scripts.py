"""A script as it was written, with `unisono.parallel`, under DDP, and as a Job (`make bench-scripts`).

python benchmarks/scripts.py [--rounds 3] [--steps 20] [--cases mlp-256,cnn-256] [--said "the machine was shared"]

Everybody is on the same two cores, and contenders take turns in another order each round. The script has torch's
default threads; calls, DDP and the Job have 2 processes × 1 thread. Cases that are measured replace what
`results/scripts.json` has of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unisono.scripts.cutting import DEFAULT_MICROBATCHES

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "docs"), str(HERE / "peers")]

from contenders import two_cores  # noqa: E402
from fill import filled  # noqa: E402

from frameworks import cpu  # noqa: E402

RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "scripts.md"
CASES = ("mlp-256", "cnn-256", "transformer-32")
OPTIMIZER = "adamw"
WARM_UP = 10
WORKERS = 2

Run = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A way to train.

    Attributes:
        name: how tables name it.
        kind: "script", "run" (the script under `unisono run`), "ddp" or "job".
        microbatches: of a call or a step; 0 = the script without the line.
    """

    name: str
    kind: str
    microbatches: int = 0

    def command(self, case: str, steps: int, folder: Path) -> list[str]:
        """How it is started; it leaves a run folder, or result.json."""
        result = folder / "result.json"
        if self.kind in ("script", "run"):
            started = ["-m", "unisono", "run"] if self.kind == "run" else []
            script = [
                *started,
                HERE / "peers" / "script.py",
                case,
                OPTIMIZER,
                steps,
                WARM_UP,
                self.microbatches,
                result,
            ]
        elif self.kind == "job":
            script = [HERE / "unisono_run.py", case, OPTIMIZER, steps, folder / "run"]
            script += ["--microbatches", self.microbatches]
        else:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
            script = [*launcher, HERE / "torch_worker.py", self.kind, case, OPTIMIZER, steps, result]
        return [sys.executable, *map(str, script)]


SCRIPT = Contender("the script", "script")
CALLS = Contender("unisono.parallel", "script", DEFAULT_MICROBATCHES)
RUN = Contender("unisono.parallel, unisono run", "run", DEFAULT_MICROBATCHES)
DDP = Contender("DDP", "ddp")
JOB = Contender("Job, as many microbatches", "job", DEFAULT_MICROBATCHES)
CONTENDERS = (SCRIPT, CALLS, RUN, DDP, JOB)


def measure(contender: Contender, case: str, steps: int) -> Run:
    """What a run of its own took, on two cores."""
    cores = {int(core) for core in two_cores()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            contender.command(case, steps + WARM_UP, folder), check=True, stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip
        if contender.kind == "job":
            lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
            return {"seconds": [json.loads(line)["step_seconds"] for line in lines]}
        found = json.loads((folder / "result.json").read_text())
        return dict(found) if isinstance(found, dict) else {"seconds": found}


def table(results: dict[str, dict[str, list[Run]]]) -> str:
    """Medians of the rounds' medians, so that one disturbed round counts for nothing, and ratios, as Markdown."""
    lines = [
        "| case | started by | of the script | of DDP | of a Job | CPU time of its own process | first call, seconds |",
        "| --- " * 7 + "|",
    ]
    for case, found in results.items():
        took = {
            name: statistics.median(statistics.median(run["seconds"][WARM_UP:]) for run in runs)
            for name, runs in found.items()
        }
        for contender, command in ((CALLS, "python"), (RUN, "unisono run")):
            runs = found[contender.name]
            ratios = [took[contender.name] / took[peer.name] for peer in (SCRIPT, DDP, JOB)]
            share = statistics.median(run["own_cpu"] / (run["own_cpu"] + run["workers_cpu"]) for run in runs)
            first = statistics.median(run["first_call"] for run in runs)
            row = [case, f"`{command}`", *(f"{ratio:.2f}" for ratio in ratios), f"{share:.0%}", f"{first:.1f}"]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print a table, keep the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--said", default="", help="what else is to be known of the machine")
    arguments = parser.parse_args()
    file = RESULTS / "scripts.json"
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"results": {}}
    for case in arguments.cases.split(","):
        runs: dict[str, list[Run]] = {contender.name: [] for contender in CONTENDERS}
        for turn in range(arguments.rounds):
            first = turn % len(CONTENDERS)
            for contender in CONTENDERS[first:] + CONTENDERS[:first]:
                runs[contender.name].append(measure(contender, case, arguments.steps))
        kept["results"][case] = runs
    kept["settings"] = {
        "cpu": cpu(), "torch": torch.__version__, "optimizer": OPTIMIZER, "rounds": arguments.rounds,
        "steps": arguments.steps, "warm_up": WARM_UP, "workers": WORKERS, "threads": 1, "said": arguments.said,
        "at": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(table(kept["results"]))
    file.write_text(json.dumps(kept) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), "bench", table(kept["results"])))


if __name__ == "__main__":
    main()
