"""Slurm as it is: a controller, and a daemon in each namespace that is a node."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hosts.launched import AGAIN, TRAIN, has_checkpoint, hashes, kill_unisono, tell_unisono
from hosts.namespaces import Network
from hosts.slurm import HAS_SLURM, Slurm
from waiting import limit, until

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.skipif(not HAS_SLURM, reason="takes Slurm (Debian's packages slurmctld, slurmd, slurm-client, munge)"),
    pytest.mark.parametrize("network", [3], indirect=True),
]
GOES_ON = ("--no-kill", "--kill-on-bad-exit=0")


@pytest.fixture
def slurm(network: Network) -> Iterator[Slurm]:
    """A cluster of two nodes."""
    with (
        TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder,
        Slurm(network, Path(folder)) as cluster,
    ):
        yield cluster


def srun(slurm: Slurm, folder: Path, *flags: str, train: Sequence[str] = TRAIN) -> subprocess.Popen[bytes]:
    """Start Unisono on all nodes; everything is printed to a file."""
    with (folder / "output.txt").open("wb") as output:
        return slurm.network.popen(
            slurm.login, ["srun", "--nodes=2", "--ntasks-per-node=1", *flags, *train],
            cwd=folder, env=slurm.variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip


def test_the_same_bits(slurm: Slurm, tmp_path: Path, expected: str) -> None:
    (tmp_path / "held").unlink()
    process = srun(slurm, tmp_path)
    assert process.wait(limit()) == 0, (tmp_path / "output.txt").read_text()
    assert hashes(tmp_path / "output.txt") == [expected] * 2
    assert [path.name for path in (tmp_path / "out" / "hosts").iterdir()] == ["node1"]


def test_a_lost_unisono(slurm: Slurm, tmp_path: Path, expected: str) -> None:
    process = srun(slurm, tmp_path, *GOES_ON)
    until(lambda: has_checkpoint(tmp_path))
    kill_unisono(slurm.network, 1)
    until(lambda: "1 host with" in (tmp_path / "output.txt").read_text())
    (tmp_path / "held").unlink()
    process.wait(limit())
    assert hashes(tmp_path / "output.txt") == [expected], (tmp_path / "output.txt").read_text()


def test_the_first_node_lost_and_a_store_elsewhere(slurm: Slurm, tmp_path: Path, expected: str) -> None:
    where, output = f"{slurm.network.address(slurm.login)}:29400", tmp_path / "output.txt"
    slurm.network.popen(slurm.login, [*TRAIN[:3], "store", where], env=slurm.variables, stdin=subprocess.DEVNULL)
    process = srun(slurm, tmp_path, *GOES_ON, train=[*TRAIN, "--store", where])
    until(lambda: has_checkpoint(tmp_path))
    slurm.network.kill(0)
    until(lambda: "keeps the run folder" in output.read_text())
    until(lambda: slurm.states()[0].startswith("down"))  # from here on Slurm would end the job if it were to
    (tmp_path / "held").unlink()
    until(lambda: hashes(output) == [expected])
    process.kill()  # srun itself waits on, for the node


def test_a_unisono_that_is_told_to_go(slurm: Slurm, tmp_path: Path, expected: str) -> None:
    process, output = srun(slurm, tmp_path, "--kill-on-bad-exit=1"), tmp_path / "output.txt"
    until(lambda: has_checkpoint(tmp_path))
    tell_unisono(slurm.network, 1, signal.SIGTERM)
    until(lambda: "was told to go (SIGTERM); 1 host goes on" in output.read_text())
    (tmp_path / "held").unlink()
    assert process.wait(limit()) == 0, output.read_text()
    assert hashes(output) == [expected]


def test_a_job_that_is_cancelled(slurm: Slurm, tmp_path: Path, expected: str) -> None:
    process, output = srun(slurm, tmp_path, *GOES_ON), tmp_path / "output.txt"
    until(lambda: has_checkpoint(tmp_path))
    slurm.ask("scancel", "1")
    assert process.wait(limit()) != 0
    ended = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (ended["exit"], ended["signal"]) == ("interrupted", signal.SIGTERM), output.read_text()
    (tmp_path / "held").unlink()
    again = srun(slurm, tmp_path, train=AGAIN)
    assert again.wait(limit()) == 0, output.read_text()
    assert set(hashes(output)) == {expected}


@pytest.mark.thorough
def test_the_first_nodes_lost_unisono(slurm: Slurm, tmp_path: Path, expected: str) -> None:
    process = srun(slurm, tmp_path, *GOES_ON)
    until(lambda: has_checkpoint(tmp_path))
    kill_unisono(slurm.network, 0)
    assert process.wait(limit()) != 0
    (tmp_path / "held").unlink()
    again = srun(slurm, tmp_path, train=AGAIN)
    assert again.wait(limit()) == 0, (tmp_path / "output.txt").read_text()
    assert hashes(tmp_path / "output.txt") == [expected] * 2


def test_a_lost_node(slurm: Slurm, tmp_path: Path, expected: str) -> None:
    process = srun(slurm, tmp_path, *GOES_ON)
    until(lambda: has_checkpoint(tmp_path))
    slurm.network.kill(1)
    until(lambda: slurm.states()[1].startswith("down"))  # from here on Slurm would end the job if it were to
    (tmp_path / "held").unlink()
    until(lambda: hashes(tmp_path / "output.txt") == [expected])
    process.kill()  # srun itself waits on, for the node


SCRIPT = """#!/bin/sh
exec srun {flags} {train}
"""


@pytest.mark.few("by Slurm-3")
@pytest.mark.parametrize("flags", [[], ["--no-kill"]], ids=["by Slurm", "by hand"])
def test_the_first_node_lost_and_the_job_requeued(
    slurm: Slurm, tmp_path: Path, expected: str, flags: list[str]
) -> None:
    script, output = tmp_path / "script.sh", tmp_path / "output.txt"
    script.write_text(SCRIPT.format(flags=" ".join(GOES_ON), train=" ".join(TRAIN)))
    where = [f"--chdir={tmp_path}", f"--output={output}", "--open-mode=append"]
    slurm.ask("sbatch", "--nodes=2", "--ntasks-per-node=1", "--requeue", *flags, *where, str(script))
    until(lambda: has_checkpoint(tmp_path))
    slurm.network.kill(0)
    until(lambda: slurm.states()[0].startswith("down"))
    (tmp_path / "held").unlink()
    slurm.start(0)
    if flags:  # the job stays, without the script that the first node ran
        until(lambda: slurm.ask("squeue", "--noheader", "--format=%T %R") == "RUNNING node1\n")
        slurm.ask("scontrol", "requeue", "1")
    until(lambda: len(hashes(output)) == 2)
    assert hashes(output) == [expected] * 2
    assert json.loads((tmp_path / "out" / "run.json").read_text())["resumed"]


def test_the_same_script_until_it_is_done(slurm: Slurm, tmp_path: Path, expected: str) -> None:
    """Preempted, which puts it into the queue again; out of time, after which it does that itself; done, and done."""
    script, output, held = tmp_path / "script.sh", tmp_path / "output.txt", tmp_path / "held"
    train = " ".join([*AGAIN, "--max-time", "$(cat limit)"])
    last = 'status=$?; echo $status >> statuses; [ $status -le 128 ] || scontrol requeue "$SLURM_JOB_ID"\n'
    script.write_text(SCRIPT.format(flags=" ".join(GOES_ON), train=train).replace("exec ", "") + last)
    where = [f"--chdir={tmp_path}", f"--output={output}", "--open-mode=append"]
    batch = ["sbatch", "--nodes=2", "--ntasks-per-node=1", "--requeue", *where, str(script)]
    (tmp_path / "limit").write_text("1h")
    slurm.ask(*batch)
    until(lambda: has_checkpoint(tmp_path))
    (tmp_path / "limit").write_text("1s")
    held.write_text("100")
    slurm.ask("scontrol", "requeue", "1")
    until(lambda: json.loads((tmp_path / "out" / "run.json").read_text())["reason"] == "max-time")
    held.unlink()
    (tmp_path / "limit").write_text("1h")
    until(lambda: len(hashes(output)) >= 2 and hashes(output)[-1] == expected and not slurm.ask("squeue", "--noheader"))
    manifest = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (tmp_path / "statuses").read_text().split()[-2:] == ["143", "0"], output.read_text()
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 201))
    slurm.ask(*batch)
    until(lambda: "finished: after step 200 nothing is left to do" in output.read_text())
    until(lambda: not slurm.ask("squeue", "--noheader"))
    after = json.loads((tmp_path / "out" / "run.json").read_text())
    assert {**after, "key": ""} == {**manifest, "key": ""}
