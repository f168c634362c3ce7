"""torchrun as it is, one agent in each namespace: the same bits, and what becomes of a run that loses something."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from hosts.launched import AGAIN, TRAIN, environment, has_checkpoint, hashes
from hosts.namespaces import Network
from waiting import limit, scaled, until, watch

pytestmark = pytest.mark.hosts


def static(network: Network, host: int) -> list[str]:
    """How agents find each other: all are named beforehand."""
    return [
        "--nnodes=2", f"--node-rank={host}", f"--master-addr={network.address(0)}", "--master-port=29500",
    ]  # fmt: skip


def c10d(network: Network, host: int) -> list[str]:
    """How agents find each other: they come and go. The first ones wait for others for a second, not for thirty."""
    return [
        "--nnodes=1:2", "--rdzv-backend=c10d", f"--rdzv-endpoint={network.address(0)}:29400", "--rdzv-id=first",
        f"--rdzv-conf=is_host={int(not host)},last_call_timeout={scaled(1):.0f}",
        f"--local-addr={network.address(host)}",
    ]  # fmt: skip


class Agent:
    """One torchrun on one host.

    Args:
        network, host: where.
        folder: of job.py.
        flags: of torchrun.
        train: the rest of the command.
        variables: more of its environment.
    """

    def __init__(
        self, network: Network, host: int, folder: Path, flags: Sequence[str], train: Sequence[str] = TRAIN,
        **variables: str,
    ) -> None:  # fmt: skip
        self.output = folder / f"agent{host}.txt"
        launch = [sys.executable, "-m", "torch.distributed.run", *flags, "--nproc-per-node=1", "--max-restarts=2"]
        with self.output.open("ab") as output:
            self.process = network.popen(
                host, [*launch, *train[1:]], cwd=folder, env=environment(**variables), stdin=subprocess.DEVNULL,
                stdout=output, stderr=output,
            )  # fmt: skip
        watch(self.process)

    @property
    def text(self) -> str:
        """What it and its Unisono have printed."""
        return self.output.read_text()

    def kill_unisono(self) -> None:
        """SIGKILL to the agent's Unisono and all that it has made; the agent lives."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            process.kill()

    def parameters(self) -> str:
        """The hash that its Unisono printed last, after it has ended well."""
        assert self.process.wait(limit()) == 0, self.text
        return hashes(self.output)[-1]


@pytest.mark.few("host 0's")
@pytest.mark.parametrize("lost", [None, 0, 1], ids=["none", "host 0's", "host 1's"])
def test_unisono_lost_under_a_living_agent(network: Network, tmp_path: Path, expected: str, lost: int | None) -> None:
    agents = [Agent(network, host, tmp_path, static(network, host)) for host in range(2)]
    until(lambda: has_checkpoint(tmp_path))
    if lost is not None:
        agents[lost].kill_unisono()
        until(lambda: agents[0].text.count("2 hosts with their workers") >= 2)
        assert ("keeps the run folder" in agents[1].text) == (lost == 0)
    (tmp_path / "held").unlink()
    assert {agent.parameters() for agent in agents} == {expected}


@pytest.mark.parametrize("rendezvous", [static, c10d])
def test_a_host_lost_with_its_agent(network: Network, tmp_path: Path, expected: str, rendezvous: type) -> None:
    agents = [Agent(network, host, tmp_path, rendezvous(network, host)) for host in range(2)]
    until(lambda: has_checkpoint(tmp_path))
    network.kill(1)
    until(lambda: "1 host with" in agents[0].text)
    (tmp_path / "held").unlink()
    until(lambda: hashes(agents[0].output) == [expected])  # torchrun itself waits on, for the other agent


@pytest.mark.few("c10d")
@pytest.mark.parametrize("rendezvous", [static, c10d])
def test_host_0_lost_with_its_agent(network: Network, tmp_path: Path, expected: str, rendezvous: type) -> None:
    agents = [Agent(network, host, tmp_path, rendezvous(network, host)) for host in range(2)]
    until(lambda: has_checkpoint(tmp_path))
    network.kill(0)
    assert agents[1].process.wait(limit()) != 0
    until(lambda: agents[1].text.rstrip().endswith(f"--resume {tmp_path / 'out'}"), "what to do is the last line")
    (tmp_path / "held").unlink()
    agents = [Agent(network, host, tmp_path, rendezvous(network, host), AGAIN) for host in range(2)]
    assert {agent.parameters() for agent in agents} == {expected}


def test_an_agent_that_is_told_to_go(network: Network, tmp_path: Path, expected: str) -> None:
    agents = [Agent(network, host, tmp_path, static(network, host)) for host in range(2)]
    until(lambda: has_checkpoint(tmp_path))
    agents[1].process.terminate()
    until(lambda: "was told to go (SIGTERM); 1 host goes on" in agents[0].text)
    (tmp_path / "held").unlink()
    until(lambda: hashes(agents[0].output) == [expected])  # torchrun itself waits on, for the other agent


def test_c10d_starts_all_anew_where_a_unisono_is_lost(network: Network, tmp_path: Path, expected: str) -> None:
    agents = [Agent(network, host, tmp_path, c10d(network, host)) for host in range(2)]
    until(lambda: has_checkpoint(tmp_path))
    for lost, times in ((1, 2), (0, 3)):
        agents[lost].kill_unisono()
        until(lambda times=times: any(agent.text.count("2 hosts with their workers") >= times for agent in agents))
    (tmp_path / "held").unlink()
    assert {agent.parameters() for agent in agents} == {expected}


def test_c10d_takes_an_agent_that_is_added(network: Network, tmp_path: Path, expected: str) -> None:
    apart = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    agents = [Agent(network, 0, tmp_path, c10d(network, 0), **apart)]
    until(lambda: has_checkpoint(tmp_path))
    agents.append(Agent(network, 1, tmp_path, c10d(network, 1), **apart))
    until(lambda: any("2 hosts with their workers" in agent.text for agent in agents))
    (tmp_path / "held").unlink()
    assert {agent.parameters() for agent in agents} == {expected}
