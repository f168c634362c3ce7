"""Unisono and PyTorch DDP on two hosts, over cables of several speeds (`make bench-hosts`).

python benchmarks/hosts.py [--rounds 3] [--steps 30] [--only mlp-32,…] [--rates none,10,1] [--out FOLDER]

Hosts are network namespaces of this machine, joined by a cable that is limited to so many gigabits a second ("none":
as fast as the processor copies). Each has a core of its own, to which everything on it is pinned, and one worker with
one thread, started by torchrun in both. Same parameters, samples a step, microbatch shape and fused SGD. Beside DDP as
it is: DDP whose update first copies a chunk's old values, the least that going on after a kill at any instant takes
where optimizers work in place. Contenders take turns in one go, each in another order each round; the first steps are
left out. Bytes are the interfaces' counters, those of a run of the first steps alone taken off. What the cable and gloo
can do by themselves is measured first.
Raw figures and settings: results/hosts.json; the tables: results/hosts.md. It takes root and `ip` (package iproute2).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from models import CASES

HERE = Path(__file__).parent
sys.path += [str(HERE / "peers"), str(HERE.parent / "tests"), str(HERE.parent / "tests" / "hosts")]

from contenders import two_cores  # noqa: E402
from namespaces import CONGESTION_CONTROL, INTERFACE, Network, Unavailable  # noqa: E402

from frameworks import Failed, cpu  # noqa: E402

HOSTS = 2
OPTIMIZER = "sgd"
WARM_UP = 10
PORT = 29500
LIMIT_SECONDS = 300.0

CONTENDERS = {"unisono": "Unisono", "ddp": "DDP", "ddp-keeping": "DDP that keeps old values"}
"""Contender → how tables name it. The first is compared with the others."""

RATES = {"none": "unlimited", "10": "10 Gb/s", "1": "1 Gb/s"}
"""What --rates says → how tables name it."""

Bytes = dict[str, list[int]]
"""Way ("sent", "received") → bytes of each host."""


def wait(network: Network, running: list[subprocess.Popen[Any]], logs: list[Path]) -> None:
    """Wait until every host's program has ended well.

    Raises:
        Failed: one has not, or it took too long.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    while any(process.poll() is None for process in running):
        for host, process in enumerate(running):
            if process.returncode or time.monotonic() > deadline:
                for other in range(network.hosts):
                    network.kill(other)
                said = "\n".join(logs[host].read_text(errors="replace").rstrip().splitlines()[-12:])
                how = f"ended with {process.returncode}" if process.returncode else f"took {LIMIT_SECONDS:.0f} s"
                raise Failed(f"host {host} {how}:\n{said}")
        time.sleep(0.02)
    if any(process.returncode for process in running):
        raise Failed("\n".join(log.read_text(errors="replace")[-2000:] for log in logs))


def start(network: Network, host: int, command: list[object], log: Path) -> subprocess.Popen[Any]:
    """Start one host's program, where gloo finds the host's interface and each host meets host 0."""
    meeting = {"MASTER_ADDR": network.address(0), "MASTER_PORT": str(PORT), "GLOO_SOCKET_IFNAME": INTERFACE}
    environment = {**os.environ, **meeting, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        return network.popen(
            host, command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def program(contender: str, case: str, steps: int, folder: Path) -> list[object]:
    """A contender's script, which keeps a host's results in `folder`, as hosts share none."""
    if contender == "unisono":
        script = [HERE / "unisono_run.py", case, OPTIMIZER, steps, folder / "run"]
        return [*script, "--workers", 1, "--microbatches", 2]
    return [HERE / "torch_worker.py", contender, case, OPTIMIZER, steps, folder / "seconds.json"]


def step_seconds(contender: str, folder: Path) -> list[float]:
    """What a contender has noted on host 0."""
    if contender == "unisono":
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step_seconds"] for line in lines]
    noted: list[float] = json.loads((folder / "seconds.json").read_text())
    return noted


def gigabits(rate: str) -> float | None:
    """ "10" → bits a second."""
    return None if rate == "none" else 1e9 * float(rate)


def measure(contender: str, case: str, rate: str, steps: int) -> tuple[list[float], Bytes]:
    """One run: the seconds of all its steps, and the bytes of the whole run."""
    with tempfile.TemporaryDirectory() as name, Network(HOSTS) as network:
        network.limit(gigabits(rate))
        folders = [Path(name) / str(host) for host in range(HOSTS)]
        logs = [folder / "output" for folder in folders]
        running = []
        for host, core in enumerate(two_cores()):
            folders[host].mkdir()
            launcher = [
                "taskset", "-c", core, sys.executable, "-m", "torch.distributed.run", f"--nnodes={HOSTS}",
                f"--node-rank={host}", "--nproc-per-node=1", f"--master-addr={network.address(0)}",
                f"--master-port={PORT}",
            ]  # fmt: skip
            command = [*launcher, *program(contender, case, steps, folders[host])]
            running.append(start(network, host, command, logs[host]))
        wait(network, running, logs)
        counted = {
            "sent": [network.sent(host) for host in range(HOSTS)],
            "received": [network.received(host) for host in range(HOSTS)],
        }
        return step_seconds(contender, folders[0]), counted


def wire(rate: str) -> dict[str, float]:
    """What the cable and gloo's operations can do by themselves: name → seconds."""
    with tempfile.TemporaryDirectory() as name, Network(HOSTS) as network:
        network.limit(gigabits(rate))
        file = Path(name) / "seconds.json"
        logs = [Path(name) / f"output.{host}" for host in range(HOSTS)]
        script = HERE / "peers" / "gloo_peer.py"
        command = [sys.executable, script]
        wait(network, [start(network, host, [*command, host, file], logs[host]) for host in range(HOSTS)], logs)
        noted: dict[str, float] = json.loads(file.read_text())
        return noted


def a_step(whole: Bytes, first: Bytes, steps: int) -> dict[str, list[float]]:
    """Bytes a step of each host: those of a run of `steps` more than another."""
    return {
        way: [(more - less) / steps for more, less in zip(whole[way], first[way], strict=True)] for way in whole
    }  # fmt: skip


def tables(raw: dict[str, Any]) -> str:
    """Results as Markdown.

    Args:
        raw: "seconds": "case rate" → contender → its steps; "bytes": case → contender → way → bytes a step of each
            host; "wire": rate → what → seconds; "settings".
    """
    others = [name for name in CONTENDERS if name != "unisono"]
    head = ["case", "cable", *(f"{name} ms" for name in CONTENDERS.values())]
    lines = [row([*head, *(f"Unisono / {CONTENDERS[name]}" for name in others)])]
    lines.append(row(["---"] * (len(head) + len(others))))
    for setting, results in raw["seconds"].items():
        case, _, rate = setting.partition(" ")
        median = {name: 1e3 * statistics.median(seconds) for name, seconds in results.items()}
        cells = [f"{median[name]:.1f}" if name in median else "" for name in CONTENDERS]
        ours = median.get("unisono")
        ratios = [f"{ours / median[name]:.2f}" if ours is not None and name in median else "" for name in others]
        lines.append(row([case, RATES[rate], *cells, *ratios]))
    parts = ["\n".join(lines)]
    if raw["bytes"]:
        lines = [row(["case", "contender", "MB sent a step, by host 0", "by host 1"]), row(["---"] * 4)]
        for case, counted in raw["bytes"].items():
            for name, ways in counted.items():
                lines.append(row([case, CONTENDERS[name], *(f"{1e-6 * value:.2f}" for value in ways["sent"])]))
        parts.append("\n".join(lines))
    if raw["wire"]:
        rates = list(raw["wire"])
        lines = [row(["by itself, ms", *(RATES[rate] for rate in rates)]), row(["---"] * (1 + len(rates)))]
        for what in raw["wire"][rates[0]]:
            lines.append(row([what, *(f"{1e3 * raw['wire'][rate][what]:.3f}" for rate in rates)]))
        parts.append("\n".join(lines))
    about = raw["settings"]
    parts.append(
        f"Medians of {about['rounds']} interleaved runs, {about['steps']} steps each besides {about['warm_up']} that "
        f"are left out; 2 hosts × 1 worker × 1 thread, TCP {about['congestion_control']}; {about['framework']}, "
        f"Python {about['python']}; {about['cpu']}, {about['at']}."
    )
    return "\n\n".join(parts) + "\n"


def row(cells: list[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def asked() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="besides the first ones, which are left out")
    parser.add_argument("--only", default=",".join(CASES), help="cases")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--rates", default=",".join(RATES), help="gigabits a second")
    parser.add_argument("--no-wire", action="store_true", help="leave out what is measured without a contender")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    chosen = ((arguments.only, CASES), (arguments.contenders, CONTENDERS), (arguments.rates, RATES))
    for given, known in chosen:
        if set(given.split(",")) - set(known):
            parser.error(f"received {given}; there are {','.join(known)}")
    if arguments.steps < 1 or arguments.rounds < 1:
        parser.error("--rounds and --steps must be at least 1")
    return arguments


class Runs:
    """Runs contenders; who has failed once is left out of that setting from then on.

    Attributes:
        raw: see `tables`; and "failures": what failed → its last words.
    """

    def __init__(self) -> None:
        self.raw: dict[str, Any] = {"seconds": {}, "bytes": {}, "wire": {}, "failures": {}}

    def timed(self, contender: str, case: str, rate: str, steps: int) -> Bytes | None:
        """Note a run's steps; its bytes."""
        done = self._attempt(contender, case, rate, WARM_UP + steps)
        if done is None:
            return None
        seconds, counted = done
        self.raw["seconds"].setdefault(f"{case} {rate}", {}).setdefault(contender, []).extend(seconds[WARM_UP:])
        took = 1e3 * statistics.median(seconds[WARM_UP:])
        print(f"{case}, {RATES[rate]}, {CONTENDERS[contender]}: {took:.1f} ms", flush=True)
        return counted

    def count(self, contender: str, case: str, rate: str, whole: Bytes, steps: int) -> None:
        """Note the bytes a step of a run of `steps` steps besides the first ones."""
        done = self._attempt(contender, case, rate, WARM_UP)
        if done is not None:
            self.raw["bytes"].setdefault(case, {})[contender] = a_step(whole, done[1], steps)

    def _attempt(self, contender: str, case: str, rate: str, steps: int) -> tuple[list[float], Bytes] | None:
        name = f"{case} {rate} {contender}"
        if name in self.raw["failures"]:
            return None
        try:
            return measure(contender, case, rate, steps)
        except (Failed, OSError, ValueError) as error:
            self.raw["failures"][name] = str(error)
            print(f"{name} failed:\n{error}", flush=True)
            return None


def main() -> int:
    """Measure, print tables, keep the raw figures; 1 if a contender failed."""
    arguments = asked()
    cases, rates, names = arguments.only.split(","), arguments.rates.split(","), arguments.contenders.split(",")
    try:
        Network(1).close()
    except Unavailable as error:
        raise SystemExit(f"this benchmark can't run here: {error}") from None
    runs = Runs()
    for rate in rates if not arguments.no_wire else []:
        runs.raw["wire"][rate] = wire(rate)
    for turn in range(arguments.rounds):
        first = turn % len(names)
        for case in cases:
            for rate in rates:
                for name in names[first:] + names[:first]:
                    counted = runs.timed(name, case, rate, arguments.steps)
                    if counted is not None and not turn and rate == rates[0]:
                        runs.count(name, case, rate, counted, arguments.steps)
    runs.raw["settings"] = {
        "rounds": arguments.rounds, "steps": arguments.steps, "warm_up": WARM_UP, "hosts": HOSTS, "workers": 1,
        "threads": 1, "optimizer": "SGD with momentum, fused", "congestion_control": CONGESTION_CONTROL, "cpu": cpu(),
        "framework": f"torch {torch.__version__}", "python": platform.python_version(), "at": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    table = tables(runs.raw)
    print(table)
    arguments.out.mkdir(exist_ok=True)
    (arguments.out / "hosts.json").write_text(json.dumps(runs.raw) + "\n")
    (arguments.out / "hosts.md").write_text(table)
    return int(bool(runs.raw["failures"]))


if __name__ == "__main__":
    sys.exit(main())
