"""Trains the examples whole, by the commands that their first lines give (`make examples`; takes about an hour).

python benchmarks/train_examples.py [NAME …] [--workers 2] [--runs runs/examples]

Writes results/examples.json, the table in examples/README.md and the pictures in examples/curves. Named examples alone
are trained again; the others keep what was measured before. A run folder that is there is read, not trained again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "docs"))
matplotlib.use("agg")

from fill import filled  # noqa: E402
from matplotlib import pyplot  # noqa: E402

from frameworks import cpu  # noqa: E402

EXAMPLES = HERE.parent / "examples"
RESULTS = HERE / "results" / "examples.json"


@dataclass(frozen=True)
class Example:
    """What to train and how good it must be.

    Attributes:
        score: the evaluation value that counts; `others` are reported too.
        wanted: what it must reach, as in "≥ 0.925".
    """

    score: str
    wanted: str
    others: tuple[str, ...] = ()


EXPECTED = {
    "images": Example("test/accuracy", "≥ 0.925"),
    "images_keras": Example("test/accuracy", "≥ 0.925"),
    "text": Example("test/accuracy", "≥ 0.81"),
    "sentiment_zh": Example("test/accuracy", "≥ 0.87", ("test/f1", "test_clean/accuracy", "test_clean/f1")),
    "translate": Example("test/bleu", "≥ 33"),
    "speech": Example("test/wer", "≤ 0.02"),
    "language": Example("loss", "≤ 1.75"),
    "language_jax": Example("loss", "≤ 1.75"),
}


def smoothed(points: list[tuple[int, float]], most: int = 200) -> list[tuple[int, float]]:
    """At most so many points, each the mean of its neighbours."""
    size = -(-len(points) // most)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[0][0], round(sum(value for _, value in part) / len(part), 5)) for part in parts]


def trained(name: str, workers: int, out: Path) -> dict[str, Any]:
    """What training an example whole gave."""
    command = ["unisono", "train", f"examples/{name}.py", "--workers", str(workers), "--out", str(out)]
    if not (out / "run.json").exists():
        started = time.time()
        subprocess.run([str(Path(sys.executable).parent / "unisono"), *command[1:]], cwd=HERE.parent, check=True)
        (out / "wall_seconds").write_text(str(time.time() - started))
    manifest = json.loads((out / "run.json").read_text())
    if manifest["exit"] != "completed":
        raise SystemExit(f"{out} holds a run that ended as {manifest['exit']!r}; remove it and try again.")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "step_seconds" in record]
    spent = {
        part: sum(sum(record[f"{part}_seconds"]) for record in steps) for part in ("compute", "data", "wait", "update")
    }
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for key, value in record.items():
            if key.startswith("evaluation/"):
                curves.setdefault(key.removeprefix("evaluation/"), []).append((record["step"], value))
    return {
        "command": " ".join(command[:-2]),
        "seed": manifest["job"]["seed"],
        "hash": manifest["parameters_sha256"],
        "steps": manifest["steps_done"],
        "workers": manifest["settings"]["workers"],
        "wall_seconds": float((out / "wall_seconds").read_text()),
        "samples_per_second": manifest["job"]["batch_size"] * len(steps) / sum(r["step_seconds"] for r in steps),
        "data_share": spent["data"] / sum(spent.values()),
        "evaluation": curves,
        "loss": smoothed([(record["step"], record["loss"]) for record in steps]),
        "fingerprint": manifest["fingerprint"],
        "cpu": cpu(),
        "at": manifest["started"][:10],
    }


def met(example: Example, value: float) -> bool:
    """Whether a value is as good as wanted."""
    relation, limit = example.wanted.split()
    return value >= float(limit) if relation == "≥" else value <= float(limit)


def picture(name: str, example: Example, result: dict[str, Any], path: Path) -> None:
    """Draw the training loss and the score over the steps."""
    figure, left = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    left.plot(*zip(*result["loss"], strict=True), color="tab:gray", linewidth=1, label="training loss")
    left.set(xlabel="step", ylabel="training loss", title=name)
    measure = example.score.split("/")[-1]
    right = left if measure == "loss" else left.twinx()  # losses share their axis
    for key, points in result["evaluation"].items():
        if key.endswith(measure):
            right.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"evaluation {key}")
    right.set_ylabel(measure)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| example | last evaluation | wanted | minutes | samples/s | waiting for data | steps | parameters' SHA-256 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, example in EXPECTED.items():
        if name not in results:
            continue
        result = results[name]
        scores = [f"{key} {result['evaluation'][key][-1][1]:.4g}" for key in (example.score, *example.others)]
        lines.append(
            f"| [{name}.py]({name}.py) | {', '.join(scores)} | {example.wanted} | {result['wall_seconds'] / 60:.1f} | "
            f"{result['samples_per_second']:,.0f} | {result['data_share']:.1%} | {result['steps']:,} | "
            f"`{result['hash'][:16]}…` |"
        )
    return "\n".join(lines)


def main() -> int:
    """Train, record, draw; 1 if an example is not as good as wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*EXPECTED, []], metavar="NAME")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "examples")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    short = []
    for name in arguments.names or EXPECTED:
        example = EXPECTED[name]
        result = trained(name, arguments.workers, arguments.runs / name)
        results[name] = result
        RESULTS.write_text(json.dumps(results) + "\n")
        picture(name, example, result, EXAMPLES / "curves" / f"{name}.png")
        value = result["evaluation"][example.score][-1][1]
        print(
            f"{name}: {example.score} {value:.4f} ({example.wanted}) after {result['wall_seconds']:.0f} s", flush=True
        )
        if not met(example, value):
            short.append(name)
    page = EXAMPLES / "README.md"
    curves = "\n".join(f"![{name}](curves/{name}.png)" for name in EXPECTED if name in results)
    page.write_text(filled(filled(page.read_text(), "results", table(results)), "curves", curves))
    if short:
        print(f"not as good as wanted: {', '.join(short)}")
    return int(bool(short))


if __name__ == "__main__":
    sys.exit(main())
