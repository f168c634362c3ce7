"""What it costs to cut a batch into more pieces: steps of the benchmarks' models on 2 workers, interleaved in one go.

python benchmarks/microbatches.py [--rounds 2] [--steps 20] [--cases mlp-32,…]

The default of `Job.microbatches` rests on these figures (`partition/batches.py`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
WARM_UP = 5
PIECES = (2, 4, 8)
CASES = (
    "mlp-32,mlp-64,mlp-128,mlp-256,mlp-512,cnn-32,cnn-64,cnn-128,cnn-256,transformer-16,transformer-32,transformer-64"
)


def step_seconds(case: str, pieces: int, steps: int) -> list[float]:
    """Step times after warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, HERE / "unisono_run.py", case, "adamw", steps + WARM_UP, out, "--microbatches", pieces]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record["step_seconds"] for record in records[WARM_UP:]]


def main() -> None:
    """Measure, print a table, keep the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    raw: dict[str, dict[int, list[float]]] = {}
    for turn in range(arguments.rounds):
        for case in arguments.cases.split(","):
            for pieces in PIECES[turn % 3 :] + PIECES[: turn % 3]:
                found = step_seconds(case, pieces, arguments.steps)
                raw.setdefault(case, {}).setdefault(pieces, []).extend(found)
    lines = ["| batch | 2 pieces: ms / step | 4 pieces | 8 pieces |", "| --- | --- | --- | --- |"]
    for case, runs in raw.items():
        took = {pieces: statistics.median(seconds) for pieces, seconds in runs.items()}
        ratios = " | ".join(f"{took[pieces] / took[2]:.2f} ×" for pieces in PIECES[1:])
        lines.append(f"| {case} | {1e3 * took[2]:.1f} | {ratios} |")
    table = "\n".join(lines) + "\n"
    print(table)
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "microbatches.json").write_text(json.dumps(raw) + "\n")
    (arguments.out / "microbatches.md").write_text(table)


if __name__ == "__main__":
    main()
