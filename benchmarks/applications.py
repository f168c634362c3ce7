"""examples/images.py and translate.py under Unisono and in plain PyTorch, reading of samples included.

python benchmarks/applications.py [--rounds 3] [--steps 60]

Contenders take turns in one go, each on the same two cores: Unisono with 2 workers of 1 thread, DDP with 2 processes of
1 thread, one process with 2 threads; the last two with and without DataLoader processes. A contender's time is its mean
over the steps after the first ones (the same samples for all); the table (in examples/README.md) gives medians over the
rounds. Raw figures and settings: results/applications.json.
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

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "docs"), str(HERE / "peers")]

from contenders import two_cores  # noqa: E402
from fill import filled  # noqa: E402

from frameworks import cpu  # noqa: E402

PEER = HERE / "peers" / "application.py"
JOBS = ("images", "translate")
WARM_UP = 10


@dataclass(frozen=True)
class Contender:
    """A way to train; `loaders`: DataLoader processes for each training process."""

    name: str
    mode: str
    threads: int
    loaders: int


CONTENDERS = (
    Contender("Unisono, 2 × 1 thread", "unisono", 1, 0),
    Contender("DDP, 2 × 1 thread", "ddp", 1, 0),
    Contender("DDP, 2 × 1 thread, loaders", "ddp", 1, 1),
    Contender("one process, 2 threads", "plain", 2, 0),
    Contender("one process, 2 threads, loader", "plain", 2, 1),
)


def measure(contender: Contender, job: str, steps: int) -> dict[str, Any]:
    """Seconds of each step of one run, on two cores."""
    cores = {int(core) for core in two_cores()}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        launcher = (
            ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"] if contender.mode == "ddp" else []
        )
        example = str(HERE.parent / "examples" / f"{job}.py")
        command = [sys.executable, *launcher, str(PEER), contender.mode, example, str(steps)]
        subprocess.run(
            [*command, str(contender.threads), str(contender.loaders), str(result)], check=True, timeout=900,
            env={**os.environ, "OMP_NUM_THREADS": str(contender.threads)}, stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip
        return dict(json.loads(result.read_text()))


def table(runs: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Medians and ratios as Markdown."""
    lines = ["| example | contender | ms / step | Unisono / contender |", "| --- | --- | --- | --- |"]
    for job, contenders in runs.items():
        took = {
            name: statistics.median(statistics.fmean(run["seconds"][WARM_UP:]) for run in made)
            for name, made in contenders.items()
        }
        ours = took[CONTENDERS[0].name]
        lines += [f"| {job} | {name} | {1e3 * value:.1f} | {ours / value:.2f} |" for name, value in took.items()]
    for job, contenders in runs.items():
        pairs = [pair for run in contenders[CONTENDERS[0].name] for pair in run["data"][WARM_UP:]]
        share = sum(waited for waited, _ in pairs) / sum(whole for _, whole in pairs)
        lines.append(f"\nWaiting for samples, {job}: {share:.2%} of the workers' time.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table, keep the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    if arguments.steps <= WARM_UP or arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1 and --steps above {WARM_UP}")
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {job: {c.name: [] for c in CONTENDERS} for job in JOBS}
    for turn in range(arguments.rounds):
        first = turn % len(CONTENDERS)
        for job in JOBS:
            for contender in CONTENDERS[first:] + CONTENDERS[:first]:
                result = measure(contender, job, arguments.steps)
                runs[job][contender.name].append(result)
                took = statistics.fmean(result["seconds"][WARM_UP:])
                print(f"round {turn + 1}: {job}, {contender.name}: {1e3 * took:.1f} ms", flush=True)
    settings = {
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "warm_up": WARM_UP,
        "cpu": cpu(),
        "at": time.strftime("%Y-%m-%d"),
    }
    print(table(runs))
    results = HERE / "results"
    (results / "applications.json").write_text(json.dumps({"settings": settings, "runs": runs}) + "\n")
    page = HERE.parent / "examples" / "README.md"
    page.write_text(filled(page.read_text(), "bench", table(runs)))


if __name__ == "__main__":
    main()
