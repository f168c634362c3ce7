"""A model cut into two stages beside its copies on two workers, in Unisono and in PyTorch (`make bench-pipeline`).

python benchmarks/pipeline.py [--rounds 3] [--steps 12] [--only transformer-8,transformer-4,mlp-8] [--out FOLDER]

Contenders take turns in one go, each in another order each round, on the same two cores with one thread a process:
Unisono with `Layout(pipeline=2)` and `Layout(data=2)`, torch.distributed.pipelining (1F1B, gloo) with the same two
halves, and DDP (gloo) that exchanges gradients once a step. Same parameters, samples, microbatches and fused AdamW; the
last losses must agree. Beside them, for comparison: both halves in plain PyTorch, for one microbatch more than there
are, with nothing handed over; and these with sums along the tree and old values kept, as plainly as can be. The first
steps are left out. A step's time is the interval between two ends of a step, the update included. Memory (PSS) and
Unisono's timeline come from runs of their own, which are not timed.
Raw figures and settings: results/pipeline.json; the tables: results/pipeline.md.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from unisono.partition.stages import bubble

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

from common import parsed  # noqa: E402
from contenders import Start, free_ports, two_cores  # noqa: E402
from timeline_events import idle_shares, read  # noqa: E402

from frameworks import Failed, cpu, run  # noqa: E402

PEER = HERE / "peers" / "pipeline_peer.py"
WARM_UP = 3
WEIGHED_SECONDS = 0.5


CASES = {"transformer-8": 1, "transformer-4": 1, "mlp-8": 8}
"""Model and microbatches (see peers/pipeline_models.py) → steps for each that is asked for: short ones vary more."""

CONTENDERS = {
    "pipeline=2": "Unisono, pipeline=2",
    "data=2": "Unisono, data=2",
    "pipelining": "torch.distributed.pipelining",
    "ddp": "DDP",
    "halves": "plain halves, nothing handed over",
    "halves-keeping": "the same, summed along the tree, old values kept",
}
"""The peer script's mode → how tables name it. The first one is compared with the others."""

OURS = next(iter(CONTENDERS))


def starts(mode: str, case: str, steps: int, folder: Path, timeline: bool = False) -> list[Start]:
    """The processes of one run, which writes `folder`/result.json.

    Args:
        mode: who.
        case: what.
        steps: how many.
        folder: an empty folder.
        timeline: have Unisono write one.
    """
    cores = two_cores()
    command = [sys.executable, str(PEER), mode, case, str(steps), str(folder), *(["timeline"] if timeline else [])]
    if mode in ("pipeline=2", "data=2"):
        return [Start(tuple(command), {"OMP_NUM_THREADS": "1"})]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0]), "OMP_NUM_THREADS": "1"}
    return [
        Start(tuple(command), {**meeting, "RANK": str(rank), "WORLD_SIZE": "2", "CORES": core})
        for rank, core in enumerate(cores)
    ]


def measure(mode: str, case: str, steps: int) -> dict[str, Any]:
    """One run: the seconds of its steps after warm-up, the last loss, PyTorch's version."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(starts(mode, case, steps, folder), folder)
        result = json.loads((folder / "result.json").read_text())
    return {**result, "seconds": result["seconds"][WARM_UP:]}


def peak_bytes(mode: str, case: str) -> int:
    """The highest PSS of all processes of a short run; shared pages count once."""
    over, peak = threading.Event(), 0

    def watch() -> None:
        nonlocal peak
        while not over.wait(WEIGHED_SECONDS):
            held = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    held += process.memory_full_info().pss
            peak = max(peak, held)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        measure(mode, case, WARM_UP + CASES[case] * WARM_UP)
    finally:
        over.set()
        watcher.join()
    return peak


def idle(case: str, steps: int) -> tuple[dict[int, float], dict[int, float]]:
    """How long each stage of Unisono's pipe has nothing to do, and how long at least (see `idle_shares`)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(starts(OURS, case, steps, folder, timeline=True), folder)
        return idle_shares(read(folder / "run" / "timeline.json").events, WARM_UP + 1)


def milliseconds(runs: list[dict[str, Any]]) -> float:
    """The median step of several runs."""
    return 1e3 * float(statistics.median(value for made in runs for value in made["seconds"]))


def tables(raw: dict[str, Any]) -> str:
    """Results as Markdown.

    Args:
        raw: "runs" and "pss_bytes": case → mode → its runs, and its memory; "idle": case → stage → share; "failures":
            "case mode" → text; "settings".
    """
    lines = ["| case | contender | ms / step | pipeline=2 / contender | PSS MiB |", "| --- | --- | --- | --- | --- |"]
    for case, runs in raw["runs"].items():
        ours = milliseconds(runs[OURS]) if OURS in runs else math.nan
        for mode, name in CONTENDERS.items():
            if mode in runs:
                took, held = milliseconds(runs[mode]), raw["pss_bytes"].get(case, {}).get(mode)
                memory = "" if held is None else f"{held / 2**20:.0f}"
                ratio = "" if math.isnan(ours) else f"{ours / took:.2f}"
                lines.append(f"| {case} | {name} | {took:.1f} | {ratio} | {memory} |")
            elif f"{case} {mode}" in raw["failures"]:
                lines.append(f"| {case} | {name} | failed | | |")
    parts = ["\n".join(lines)]
    if raw["idle"]:
        lines = [
            "| case | idle share of stage 0 | of stage 1 | mean | at once | mean / at once | (p−1)/(m+p−1) |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for case, (shares, least) in raw["idle"].items():
            mean, possible = statistics.fmean(shares.values()), statistics.fmean(least.values())
            measured = " | ".join(f"{share:.1%}" for share in shares.values())
            ratio, predicted = mean / possible, bubble(2, parsed(case)[1])
            lines.append(f"| {case} | {measured} | {mean:.1%} | {possible:.1%} | {ratio:.2f} | {predicted:.1%} |")
        parts.append(
            "\n".join(lines) + "\n\nAt once: the same passes, each begun as soon as its stage and its "
            "neighbour's pass have come so far; with passes that are alike that is (p−1)/(m+p−1)."
        )
    about = raw["settings"]
    parts.append(
        f"Medians of {about['rounds']} interleaved runs, {about['steps']} steps each (of the MLP "
        f"{CASES['mlp-8']} times as many) besides {about['warm_up']} that are left out. Below 1 the pipeline is "
        f"faster. {', '.join(about['frameworks'])}; {about['cpu']}, {about['at']}."
    )
    return "\n\n".join(parts) + "\n"


def disagreement(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Who has not computed the same loss, if anybody."""
    losses = {mode: made[0]["loss"] for mode, made in runs.items() if not math.isnan(made[0]["loss"])}
    agree = all(math.isclose(loss, value, rel_tol=1e-2) for loss in losses.values() for value in losses.values())
    return "" if agree else f"last losses differ: {losses}"


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="besides the first ones, which are left out")
    parser.add_argument("--only", default=",".join(CASES), help="cases")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="modes of the peer script")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    for given, known in ((arguments.only, CASES), (arguments.contenders, CONTENDERS)):
        if set(given.split(",")) - set(known):
            parser.error(f"received {given}; there are {','.join(known)}")
    if arguments.steps < 1 or arguments.rounds < 1:
        parser.error("--rounds and --steps must be at least 1")
    return arguments


def main() -> int:
    """Measure, print tables, keep the raw figures; 1 if a contender failed or computed something else."""
    arguments = asked()
    cases, modes = arguments.only.split(","), arguments.contenders.split(",")
    raw: dict[str, Any] = {"runs": {case: {} for case in cases}, "pss_bytes": {}, "idle": {}, "failures": {}}

    def attempt(name: str, work: Callable[..., Any], *given: Any) -> Any:
        if name in raw["failures"]:
            return None
        try:
            return work(*given)
        except (Failed, OSError, ValueError) as error:
            raw["failures"][name] = str(error)
            print(f"{name} failed:\n{error}", flush=True)
            return None

    for turn in range(arguments.rounds):
        first = turn % len(modes)
        for case in cases:
            for mode in modes[first:] + modes[:first]:
                steps = WARM_UP + CASES[case] * arguments.steps
                result = attempt(f"{case} {mode}", measure, mode, case, steps)
                if result is not None:
                    raw["runs"][case].setdefault(mode, []).append(result)
                    print(f"round {turn + 1}: {case}, {CONTENDERS[mode]}: {milliseconds([result]):.1f} ms", flush=True)
    for case in cases:
        held = {mode: attempt(f"{case} {mode}", peak_bytes, mode, case) for mode in modes}
        raw["pss_bytes"][case] = {mode: value for mode, value in held.items() if value is not None}
        if OURS in modes:
            shares = attempt(f"{case} {OURS}", idle, case, WARM_UP + CASES[case] * arguments.steps)
            raw["idle"].update({case: shares} if shares else {})
        if trouble := disagreement(raw["runs"][case]):
            raw["failures"][case] = trouble
            print(f"{case}: {trouble}", flush=True)
    frameworks = {made["framework"] for runs in raw["runs"].values() for one in runs.values() for made in one}
    raw["settings"] = {
        "rounds": arguments.rounds, "steps": arguments.steps, "warm_up": WARM_UP, "workers": 2, "threads": 1,
        "optimizer": "AdamW 1e-4, fused", "cpu": cpu(), "frameworks": sorted(frameworks),
        "python": platform.python_version(), "at": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    table = tables(raw)
    print(table)
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "pipeline.json").write_text(json.dumps(raw) + "\n")
    (arguments.out / "pipeline.md").write_text(table)
    return int(bool(raw["failures"]))


if __name__ == "__main__":
    sys.exit(main())
