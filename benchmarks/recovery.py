"""Random kills of workers: how long others stall, how soon a replacement works, what is lost (`make bench-recovery`).

python benchmarks/recovery.py [--kills 100] [--peer-kills 20] [--case mlp-32] [--seed 0]

Protocol: a run of 2 workers × 1 thread with AdamW; every 0.7–1.3 s a worker chosen at random is killed with SIGKILL
at a random instant of its step. Beside it torchrun's elastic agent with DDP (gloo), restarting after each kill from a
checkpoint every 50 steps, killed in the same way as soon as it trains again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch.nn.functional as F
from models import CASES, case_named, optimizer

import unisono
from unisono.checkpoint.parameters import sha256_of
from unisono.machine.devices import usable_cores
from unisono.observe.progress import Silent
from unisono.runs.execution import execute
from unisono.runs.observation import Observation
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.outcome import Outcome

HERE = Path(__file__).parent
WARM_UP = 3.0


@dataclass
class Seen(Observation):
    """Notes when things happen."""

    def __post_init__(self) -> None:
        self.alive: list[tuple[float, int]] = []
        self.told: list[float] = []
        self.steps: list[tuple[float, float, list[float]]] = []

    def record(self, record: dict[str, Any]) -> None:
        """Note a step's time and its slots' computing."""
        self.steps.append((time.monotonic(), record["step_seconds"], record["compute_seconds"]))

    def workers(self, alive: int) -> None:
        """Note how many workers are alive."""
        self.alive.append((time.monotonic(), alive))

    def message(self, text: str) -> None:
        """Note that a death was seen."""
        self.told.append(time.monotonic())


def job_of(case_name: str, steps: int) -> unisono.Job:
    """The case as a job."""
    case = case_named(case_name)
    return unisono.Job(
        model=case.model, loss=F.cross_entropy, optimizer=partial(optimizer, "adamw"), data=case.data,
        batch_size=case.batch_size, microbatches=2, steps=steps,
    )  # fmt: skip


def percentiles(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and worst, in milliseconds."""
    ordered = sorted(values)
    at = min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))
    return {"p50": 1e3 * statistics.median(ordered), "p99": 1e3 * ordered[at], "max": 1e3 * ordered[-1]}


def hash_of(outcome: Outcome) -> str:
    """The parameter hash."""
    return sha256_of(outcome.state.saved(outcome.steps_done))


def ours(case: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill Unisono's workers."""
    done: list[float] = []
    over = threading.Event()
    seen = Seen(job_of(case, 10**6), Silent(), lambda: len(done) >= kills and time.monotonic() > done[-1] + 2)

    def killer() -> None:
        chance = random.Random(seed)
        own = psutil.Process()
        time.sleep(WARM_UP)
        while len(done) < kills and not over.is_set():
            time.sleep(chance.uniform(0.7, 1.3))
            children = [child for parent in own.children() for child in parent.children()]
            chance.choice([child for child in children if child.name() == "unisono-worker"]).kill()
            done.append(time.monotonic())

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        outcome = execute(seen.job, Request(2, 1, usable_cores()), seen)
    finally:
        over.set()
        thread.join()
    usual = statistics.median(seconds for _, seconds, _ in seen.steps)
    computing = statistics.median(max(compute) for _, _, compute in seen.steps)
    detection, stall, rejoin = [], [], []
    for at in done:
        detection.append(min(t for t in seen.told if t > at) - at)
        stall.append(max(s for t, s, _ in seen.steps if at < t < at + 0.6) - usual)
        rejoin.append(min(t for t, alive in seen.alive if alive == 2 and t > at + min(detection[-1], 0.5)) - at)
    plain = execute(job_of(case, outcome.steps_done), Request(2, 1, usable_cores()), Seen(seen.job, Silent()))
    return {
        "kills": len(done), "steps": outcome.steps_done, "step_ms": 1e3 * usual, "compute_ms": 1e3 * computing,
        "detection_ms": percentiles(detection), "stall_ms": percentiles(stall),
        "stall_beyond_recomputing_ms": percentiles([value - computing for value in stall]),
        "rejoin_ms": percentiles(rejoin), "steps_lost": 0 if outcome.failure is None else None,
        "same_bits": hash_of(outcome) == hash_of(plain),
    }  # fmt: skip


def theirs(case: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill DDP's workers under torchrun."""
    chance = random.Random(seed)
    lost, stall = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "steps.txt"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
                   f"--max-restarts={100 * kills}", str(HERE / "elastic_worker.py"), case, str(folder)]  # fmt: skip
        agent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for_step(log, time.time(), 120)
            time.sleep(WARM_UP)
            for _ in range(kills):
                time.sleep(chance.uniform(0.7, 1.3))
                children = psutil.Process(agent.pid).children(recursive=True)
                workers = [child for child in children if "elastic_worker.py" in " ".join(child.cmdline())]
                before = int(log.read_text().split()[-1])
                with suppress(psutil.NoSuchProcess):
                    chance.choice(workers).kill()
                at = time.time()
                began, step = _wait_for_step(log, at + 0.2, 600)
                stall.append(began - at)
                lost.append(before - step + 1)
        finally:
            agent.kill()
            for child in psutil.process_iter():
                with suppress(psutil.Error):
                    if "elastic_worker.py" in " ".join(child.cmdline()):
                        child.kill()
    return {
        "kills": kills,
        "stall_ms": percentiles(stall),
        "steps_lost": {"median": statistics.median(lost), "max": max(lost)},
    }


def _wait_for_step(log: Path, after: float, limit: float) -> tuple[float, int]:
    """The first step that ended after a time."""
    deadline = time.time() + limit
    while time.time() < deadline:
        for line in log.read_text().splitlines() if log.exists() else []:
            moment, _, step = line.partition(" ")
            if step and float(moment) > after:
                return float(moment), int(step)
        time.sleep(0.01)
    raise SystemExit("torchrun did not come back")


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--peer-kills", type=int, default=20)
    parser.add_argument("--case", default="mlp-32", choices=CASES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = {"case": arguments.case, "unisono": ours(arguments.case, arguments.kills, arguments.seed)}
    print(json.dumps(results, indent=2), flush=True)
    results["torchrun"] = theirs(arguments.case, arguments.peer_kills, arguments.seed)
    text = json.dumps(results, indent=2)
    print(text)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "recovery.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
