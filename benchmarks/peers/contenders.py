"""Who competes with Unisono in each framework, and how each is started."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "MXNET_ENGINE_INFO": "0"}


@dataclass(frozen=True)
class Contender:
    """One way to train a case.

    Attributes:
        name: how tables name it.
        framework: "tensorflow", "jax" or "mxnet".
        mode: the peer script's MODE, or "unisono".
        cores: how many cores it may use in all.
        reference: not a competitor: one process.
    """

    name: str
    framework: str
    mode: str
    cores: int = 2
    reference: bool = False


PLAIN = "one process, 1 thread"
THREADS = "one process, 2 threads"
CONTENDERS = (
    Contender("Unisono (Keras/TF)", "tensorflow", "unisono"),
    Contender("MultiWorkerMirroredStrategy", "tensorflow", "multiworker"),
    Contender("MirroredStrategy", "tensorflow", "mirrored"),
    Contender(PLAIN, "tensorflow", "plain", 1, True),
    Contender(THREADS, "tensorflow", "threads", 2, True),
    Contender("Unisono (JAX)", "jax", "unisono"),
    Contender("jax.distributed, 2 processes", "jax", "processes"),
    Contender("jit over 2 host devices", "jax", "devices"),
    Contender(PLAIN, "jax", "plain", 1, True),
    Contender(THREADS, "jax", "threads", 2, True),
    Contender("Unisono (MXNet)", "mxnet", "unisono"),
    Contender("dist_sync kvstore", "mxnet", "dist_sync"),
    Contender(PLAIN, "mxnet", "plain", 1, True),
    Contender(THREADS, "mxnet", "threads", 2, True),
)
JOBS = {"tensorflow": "unisono_keras.py", "jax": "unisono_jax.py", "mxnet": "unisono_mxnet.py"}


@dataclass(frozen=True)
class Start:
    """A process to start."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def two_cores() -> tuple[str, str]:
    """The two cores that everybody is pinned to.

    Raises:
        SystemExit: there are fewer.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit(f"this benchmark pins everything to two cores; this process may use {len(cores)}.")
    return str(cores[0]), str(cores[1])


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def starts(contender: Contender, python: str, case: str, steps: int, folder: Path) -> list[Start]:
    """The processes of one run; the first one writes `folder`/result.json (Unisono: a run folder, `folder`/run).

    Args:
        contender: who.
        python: the interpreter of its environment.
        case: "mlp-32", …
        steps: how many.
        folder: an empty folder.
    """
    first, second = two_cores()
    threads = {"OMP_NUM_THREADS": "2" if contender.mode == "threads" else "1"}
    common = {**QUIET, **threads, "RANK": "0", "WORLD_SIZE": "1", "CORES": f"{first},{second}"}
    if contender.mode == "unisono":
        job = HERE / JOBS[contender.framework]
        train = (python, "-m", "unisono", "train", str(job), f"case={case}", "--workers", "2", "--steps", str(steps))
        return [Start((*train, "--out", str(folder / "run")), {**common, "KERAS_BACKEND": "tensorflow"})]
    script = str(HERE / f"{contender.framework}_peer.py")
    command = (python, script, contender.mode, case, str(steps), str(folder / "result.json"))
    if contender.mode not in ("multiworker", "processes", "dist_sync"):
        return [Start(command, {**common, "CORES": first} if contender.cores == 1 else common)]
    workers = [{**common, "WORLD_SIZE": "2", "RANK": str(rank), "CORES": core}
               for rank, core in enumerate((first, second))]  # fmt: skip
    if contender.mode == "multiworker":
        cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
        for rank, worker in enumerate(workers):
            worker["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})
    elif contender.mode == "processes":
        coordinator = f"127.0.0.1:{free_ports(1)[0]}"
        workers = [{**worker, "COORDINATOR": coordinator} for worker in workers]
    else:
        store = {"DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": str(free_ports(1)[0]), "DMLC_NUM_WORKER": "2",
                 "DMLC_NUM_SERVER": "1"}  # fmt: skip
        workers = [{**worker, **store, "DMLC_ROLE": "worker"} for worker in workers]
        workers += [{**common, **store, "DMLC_ROLE": role} for role in ("scheduler", "server")]
    return [Start(command, environment) for environment in workers]


def interpreters(main: str | None, mxnet: str) -> dict[str, str]:
    """Framework → interpreter."""
    here = main or sys.executable
    return {"tensorflow": here, "jax": here, "mxnet": mxnet}
