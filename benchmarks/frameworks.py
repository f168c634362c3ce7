"""Unisono beside each framework's own ways to use two cores, interleaved in one go (`make bench-frameworks`).

python benchmarks/frameworks.py [--frameworks tensorflow,jax,mxnet] [--cases mlp-32,…] [--rounds 3] [--steps 60]
                                [--kills 10] [--python PATH] [--mxnet-python PATH]

Everybody is pinned to the same two cores and computes the same two halves of each batch; the first steps are left out.
Raw figures and settings: results/frameworks.json; the tables: results/frameworks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

from contenders import CONTENDERS, JOBS, Contender, Start, interpreters, starts, two_cores  # noqa: E402

WARM_UP = 10
CASES = ("mlp-32", "mlp-256", "cnn-32", "cnn-256")
LIMIT_SECONDS = 300.0


class Failed(Exception):
    """A run that did not end well; its text is what it printed last."""


def run(processes: list[Start], folder: Path, watched: Path | None = None) -> float:
    """Start processes, wait for the first, end all of them.

    Args:
        processes: what to start.
        folder: for their output.
        watched: a file whose first bytes are waited for.

    Returns:
        Seconds until there was something in `watched`.

    Raises:
        Failed: the first one failed or took too long.
    """
    started = time.time()
    cores = {int(core) for core in two_cores()}
    running: list[subprocess.Popen[bytes]] = []
    seen = 0.0
    log = folder / "output"
    try:
        for number, start in enumerate(processes):
            with log.with_suffix(f".{number}").open("wb") as output:
                running.append(subprocess.Popen(
                    start.command, env={**os.environ, **start.environment, "STARTED": str(started)}, stdout=output,
                    stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                    preexec_fn=lambda: os.sched_setaffinity(0, cores),
                ))  # fmt: skip
        while running[0].poll() is None:
            if time.time() - started > LIMIT_SECONDS:
                raise Failed(f"took more than {LIMIT_SECONDS:.0f} s")
            if watched is not None and not seen and watched.exists() and watched.stat().st_size:
                seen = time.time() - started
            with suppress(subprocess.TimeoutExpired):
                running[0].wait(0.01)
        if running[0].returncode:
            text = log.with_suffix(".0").read_text(errors="replace")
            raise Failed("\n".join(text.rstrip().splitlines()[-12:]))
        for process in running[1:]:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return seen


def measure(contender: Contender, python: str, case: str, steps: int) -> dict[str, Any]:
    """One run: step times after warm-up, the time to the first step, the last loss, the framework's version."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if contender.mode == "unisono":
            metrics = folder / "run" / "metrics.jsonl"
            first = run(starts(contender, python, case, steps, folder), folder, metrics)
            records = [json.loads(line) for line in metrics.read_text().splitlines()]
            manifest = json.loads((folder / "run" / "run.json").read_text())
            result = {
                "seconds": [record["step_seconds"] for record in records], "first_step_seconds": first,
                "loss": records[-1]["loss"], "framework": manifest["fingerprint"]["framework"],
            }  # fmt: skip
        else:
            run(starts(contender, python, case, steps, folder), folder)
            result = json.loads((folder / "result.json").read_text())
    return {**result, "seconds": result["seconds"][WARM_UP:]}


def recovery(python: str, framework: str, kills: int) -> dict[str, Any]:
    """Replacements of killed workers (mlp-32)."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "result.json"
        job = HERE / "peers" / JOBS[framework]
        command = (python, str(HERE / "peers" / "rejoin.py"), str(job), "mlp-32", str(kills), str(out))
        run([Start(command, {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"})], Path(name))
        return dict(json.loads(out.read_text()))


def milliseconds(runs: list[dict[str, Any]]) -> float:
    """The median step of several runs."""
    return 1e3 * statistics.median(value for run in runs for value in run["seconds"])


def tables(raw: dict[str, Any]) -> str:
    """Results as Markdown.

    Args:
        raw: "runs": framework → case → contender → its runs; "recovery": framework → replacements.
    """
    parts = []
    for framework, cases in raw["runs"].items():
        names = [
            c.name for c in CONTENDERS if c.framework == framework and any(c.name in runs for runs in cases.values())
        ]
        lines = [f"### {framework}", "", "| case | contender | ms / step | ratio | first step after s |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for case, runs in cases.items():
            ours = next(
                (milliseconds(runs[name]) for name in names if name.startswith("Unisono") and name in runs), None
            )
            for name in names:
                if name not in runs:
                    lines.append(f"| {case} | {name} | failed | | |")
                    continue
                took = milliseconds(runs[name])
                first = statistics.median(run["first_step_seconds"] for run in runs[name])
                ratio = f"{ours / took:.2f}" if ours else ""
                lines.append(f"| {case} | {name} | {took:.2f} | {ratio} | {first:.1f} |")
        parts.append("\n".join(lines))
    if raw["recovery"]:
        lines = ["### After a kill (Unisono, mlp-32)", ""]
        lines += ["| framework | kills | replaced after s: median | worst | stall of the step ms: median | worst |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        for framework, seen in raw["recovery"].items():
            back, stall = seen["replaced_seconds"], [1e3 * value for value in seen["stall_seconds"]]
            lines.append(f"| {framework} | {len(back)} | {statistics.median(back):.2f} | {max(back):.2f} | "
                         f"{statistics.median(stall):.0f} | {max(stall):.0f} |")  # fmt: skip
        parts.append("\n".join(lines))
    about = raw["settings"]
    note = (
        "Ratio: Unisono's step over the contender's; below 1 Unisono is faster. It cuts a batch into 2 microbatches, "
        "one a worker: the default at batch 32; at 256 that is 4. Medians of "
        f"{about['rounds']} interleaved runs of {about['steps']} steps each, {about['warm_up']} of them left out. "
        f"{', '.join(about['frameworks'])}; {about['cpu']}, {about['at']}."
    )
    return "\n\n".join([*parts, note]) + "\n"


def cpu() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", default="tensorflow,jax,mxnet")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--python", help="interpreter with TensorFlow and JAX; default: this one")
    parser.add_argument("--mxnet-python", default=str(HERE.parent / ".venv-mxnet" / "bin" / "python"))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    if arguments.steps <= WARM_UP or arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1 and --steps above {WARM_UP}")
    return arguments


def main() -> int:
    """Measure, print tables, keep the raw figures; 1 if a contender failed."""
    arguments = asked()
    pythons = interpreters(arguments.python, arguments.mxnet_python)
    frameworks = arguments.frameworks.split(",")
    raw: dict[str, Any] = {"runs": {}, "recovery": {}, "failures": {}}
    for turn in range(arguments.rounds):
        for framework in frameworks:
            competing = [contender for contender in CONTENDERS if contender.framework == framework]
            first = turn % len(competing)
            for case in arguments.cases.split(","):
                for contender in competing[first:] + competing[:first]:
                    key = f"{framework} {case} {contender.name}"
                    if key in raw["failures"]:
                        continue
                    try:
                        result = measure(contender, pythons[framework], case, arguments.steps)
                    except (Failed, OSError) as error:
                        raw["failures"][key] = str(error)
                        print(f"{key} failed:\n{error}", flush=True)
                        continue
                    runs = raw["runs"].setdefault(framework, {}).setdefault(case, {})
                    runs.setdefault(contender.name, []).append(result)
                    print(f"round {turn + 1}: {key}: {milliseconds([result]):.2f} ms", flush=True)
    for framework in frameworks if arguments.kills else []:
        try:
            raw["recovery"][framework] = recovery(pythons[framework], framework, arguments.kills)
        except (Failed, OSError) as error:
            raw["failures"][f"{framework} recovery"] = str(error)
            print(f"{framework} recovery failed:\n{error}", flush=True)
    versions = {run["framework"] for cases in raw["runs"].values() for runs in cases.values()
                for made in runs.values() for run in made}  # fmt: skip
    raw["settings"] = {
        "rounds": arguments.rounds, "steps": arguments.steps, "warm_up": WARM_UP, "workers": 2, "threads": 1,
        "microbatches": 2, "optimizer": "SGD 0.01, momentum 0.9", "cpu": cpu(), "frameworks": sorted(versions),
        "python": platform.python_version(), "at": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    table = tables(raw)
    print(table)
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "frameworks.json").write_text(json.dumps(raw) + "\n")
    (arguments.out / "frameworks.md").write_text(table)
    return int(bool(raw["failures"]))


if __name__ == "__main__":
    sys.exit(main())
