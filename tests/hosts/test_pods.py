"""The commands of the manifests, run as their pods would: each a host with the name that the service gives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hosts.host_processes import PATIENT
from hosts.launched import environment, hashes
from hosts.manifests import Pod, pods
from hosts.namespaces import Network
from waiting import until

pytestmark = pytest.mark.hosts

# The service's names, and a process table of its own, in which the command is process 1.
IN_A_POD = 'mount --bind "$1" /etc/hosts; shift; exec unshare --pid --fork --kill-child --mount-proc "$@"'


class Service:
    """The pods of a manifest: one in each namespace, made anew with the same command when it has ended with a failure.

    Args:
        name: the manifest's.
        network: a host for each pod.
        folder: of the job file, and for the volume.
        launcher: put before the command, where it is not the manifest's own.
    """

    def __init__(self, name: str, network: Network, folder: Path, launcher: tuple[str, ...] = ()) -> None:
        self.pods = pods(name)
        self._network, self._folder, self._launcher = network, folder, launcher
        self._names = folder / "hosts"
        lines = [f"{network.address(index)} {pod.name}" for index, pod in enumerate(self.pods)]
        self._names.write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, index: int) -> None:
        """Start a pod's container."""
        pod = self.pods[index]
        with self.output(index).open("ab") as output:
            self.processes[index] = self._network.popen(
                index, ["sh", "-c", IN_A_POD, "pod", self._names, *self._command(pod)], cwd=self._folder,
                env=environment(**pod.environment()), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def _command(self, pod: Pod) -> list[str]:
        """Its volumes lie in the test's folder, and one worker is enough."""
        command = [word.replace("/runs/first", "out").replace("/jobs/", "") for word in pod.command()]
        command[command.index("--workers") + 1] = "1"
        command[command.index("--checkpoint-every") + 1] = "10"
        at = command.index("unisono")
        before = list(self._launcher) or [*command[:at], sys.executable, "-m"]
        return [*before, *command[at:], *PATIENT]

    def output(self, index: int) -> Path:
        """What its containers print, one after the other."""
        return self._folder / f"pod{index}.txt"

    @property
    def text(self) -> str:
        """What all have printed."""
        return "".join(self.output(index).read_text() for index in self.processes)

    def restart(self) -> bool:
        """What the operator does: pods that have failed are made anew. Whether all have ended well."""
        for index, process in self.processes.items():
            if process.poll() not in (None, 0):
                self.start(index)
        return all(process.poll() == 0 for process in self.processes.values())

    def has_checkpoint(self) -> bool:
        return any((self._folder / "out" / "checkpoints").glob("step-*"))


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "-m")


@pytest.mark.few("TrainJob", "JobSet")
@pytest.mark.parametrize(("name", "network", "launcher"), [
    pytest.param("trainjob.yaml", 3, (), id="TrainJob"),
    pytest.param("trainjob.yaml", 3, TORCHRUN, id="TrainJob, torchrun"),
    pytest.param("jobset.yaml", 2, (), id="JobSet"),
    pytest.param("pytorchjob.yaml", 3, (), id="PyTorchJob"),
], indirect=["network"])  # fmt: skip
def test_a_pod_that_is_lost_comes_back(
    network: Network, tmp_path: Path, expected: str, name: str, launcher: tuple[str, ...]
) -> None:
    service = Service(name, network, tmp_path, launcher)
    last = len(service.pods) - 1
    for index in reversed(range(len(service.pods))):
        service.start(index)
    until(service.has_checkpoint)
    network.kill(last)
    service.processes[last].wait()
    service.restart()
    until(lambda: service.output(0).read_text().count(f"{last + 1} hosts with their workers") >= 2)
    (tmp_path / "held").unlink()
    until(service.restart)
    assert {hashes(service.output(index))[-1] for index in service.processes} == {expected}


@pytest.mark.parametrize("network", [2], indirect=True)
def test_the_first_pod_is_lost_and_the_same_job_is_applied_again(
    network: Network, tmp_path: Path, expected: str
) -> None:
    service = Service("jobset.yaml", network, tmp_path)
    for index in range(2):
        service.start(index)
    until(service.has_checkpoint)
    network.kill(0)
    (tmp_path / "held").unlink()
    until(service.restart)
    assert hashes(service.output(1))[-1] == expected
    before = service.output(0).read_text()
    for index in range(2):
        service.start(index)
    until(lambda: all(process.poll() == 0 for process in service.processes.values()))
    assert "finished" in service.output(0).read_text()[len(before) :]
