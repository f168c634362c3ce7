"""What it costs to cut a batch into more pieces: steps of the benchmarks' models on 2 workers, and of two plain
processes that add up as many gradients and never speak to each other (the limit), interleaved.

python benchmarks/microbatches.py [--rounds 1] [--steps 20] [--cases mlp-32,…]

The default of `Job.microbatches` rests on these figures (`partition/batches.py`). Cases that are measured replace what
`results/microbatches.json` has of them.
"""

from __future__ import annotations

import argparse
import json
import statistics

from run import RESULTS, Contender, measure

CUTS = (2, 4, 8)
CASES = "mlp-32,mlp-64,mlp-128,mlp-256,mlp-512,cnn-32,cnn-64,cnn-256,transformer-16,transformer-32,transformer-64"


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Milliseconds with 2 pieces, and how many times as long it takes with more."""
    lines = ["| batch | Unisono, 2 pieces: ms | 4 | 8 | the limit, 2 pieces: ms | 4 | 8 |", "| --- " * 7 + "|"]
    for case, runs in results.items():
        row = [case]
        for kind in ("unisono", "limit"):
            first, *more = (statistics.median(runs[f"{kind} {cut}"]) for cut in CUTS)
            row += [f"{1e3 * first:.1f}", *(f"{seconds / first:.2f} ×" for seconds in more)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print a table, keep the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cases", default=CASES)
    arguments = parser.parse_args()
    file = RESULTS / "microbatches.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    competing = [Contender(kind, cut) for cut in CUTS for kind in ("unisono", "limit")]
    for case in arguments.cases.split(","):
        seconds = dict[str, list[float]]()
        for turn in range(arguments.rounds):
            for contender in competing[turn % len(competing) :] + competing[: turn % len(competing)]:
                seconds.setdefault(str(contender), []).extend(measure(contender, case, "adamw", arguments.steps)[0])
        kept[case] = seconds
    print(table(kept))
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps(kept) + "\n")
    (RESULTS / "microbatches.md").write_text(table(kept) + "\n")


if __name__ == "__main__":
    main()
