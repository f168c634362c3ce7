"""What tests of launchers share: the command and the environment of one Unisono, and what it has said."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from hosts.host_processes import PATIENT
from hosts.namespaces import Network
from paths import PYTHONPATH

WAITING = """jobs.make(jobs.Wild, optimizer=jobs.adamw, microbatches=8, batch_size=40, steps=200,
        order="sequential", data=jobs.Held(200, 40, "held"))"""
"""It goes on only as far as the file `held` says, while there is one."""
TRAIN = [sys.executable, "-m", "unisono", "train", "job.py", "--workers", "1", "--out", "out"]
TRAIN += ["--checkpoint-every", "10", *PATIENT]
AGAIN = [*TRAIN, "--resume", "auto"]


def environment(**more: str) -> dict[str, str]:
    """The environment of a launcher whose processes find the tests' jobs."""
    return {**os.environ, "PYTHONPATH": PYTHONPATH, "PYTHONUNBUFFERED": "1", **more}


def hashes(output: Path) -> list[str]:
    """What the hosts have printed at their ends."""
    return re.findall(r"parameters (\w{64})", output.read_text())


def has_checkpoint(folder: Path) -> bool:
    """Whether host 0 has written one."""
    return any((folder / "out" / "checkpoints").glob("step-*"))


def kill_unisono(network: Network, host: int) -> None:
    """SIGKILL to a host's Unisono and all that it has made; what has started it lives."""
    for process in map(psutil.Process, network.processes(host)):
        with suppress(psutil.NoSuchProcess):
            if any(part.startswith("unisono") for part in process.cmdline()[:6]):
                process.send_signal(signal.SIGKILL)


def tell_unisono(network: Network, host: int, number: int) -> None:
    """A signal to a host's Unisono, as a system sends it that is about to end."""
    for process in map(psutil.Process, network.processes(host)):
        with suppress(psutil.NoSuchProcess):
            if "train" in process.cmdline() and process.cmdline()[1:3] == ["-m", "unisono"]:
                process.send_signal(number)
