"""torchrun as it is, one agent in each namespace: the same bits, and what becomes of a run that loses a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cluster.hosts import LIMIT_SECONDS, TESTS, hash_alone, job_file, wait_until
from cluster.namespaces import Network

pytestmark = pytest.mark.hosts

LONG = "jobs.make(jobs.Wild, optimizer=jobs.adamw, microbatches=8, batch_size=40, steps=240)"


class Agent:
    """One torchrun on one host.

    Args:
        network, host: where.
        folder: of job.py.
        flags: of torchrun.
    """

    def __init__(self, network: Network, host: int, folder: Path, *flags: str) -> None:
        self.folder, self.output = folder, folder / f"agent{host}.txt"
        with self.output.open("ab") as output:
            self.process = network.popen(
                host,
                [
                    sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={host}",
                    "--nproc-per-node=1", f"--master-addr={network.address(0)}", "--master-port=29500", *flags,
                    "-m", "unisono", "train", "job.py", "--workers", "1", "--out", "out", "--checkpoint-every", "20",
                ],
                cwd=folder, env={**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{TESTS}"},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def kill_unisono(self) -> None:
        """SIGKILL to the agent's Unisono and all that it has made; the agent lives."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            process.kill()

    def parameters(self) -> str:
        """The hash that it printed, after it has ended well."""
        assert self.process.wait(LIMIT_SECONDS) == 0, self.output.read_text()
        return re.findall(r"parameters (\w{64})", self.output.read_text())[-1]

    def has_checkpoint(self) -> bool:
        """Whether host 0 has written one."""
        return any((self.folder / "out" / "checkpoints").glob("step-*"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("lost", [None, 0, 1], ids=["none", "host 0's", "host 1's"])
def test_unisono_lost_under_a_living_agent(network: Network, tmp_path: Path, lost: int | None) -> None:
    job_file(tmp_path, LONG)
    expected = hash_alone(tmp_path)
    agents = [Agent(network, host, tmp_path, "--max-restarts=2") for host in range(2)]
    if lost is not None:
        wait_until(agents[0].has_checkpoint)
        agents[lost].kill_unisono()
    assert {agent.parameters() for agent in agents} == {expected}
    times = agents[0].output.read_text().count("2 hosts with their workers")
    assert times == (1 if lost is None else 2)
