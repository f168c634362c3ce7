"""`verify`: one hash in every situation, and what is said where there are two."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pytest
from rich.console import Console
from torch import Tensor

import cpu_as_device
import jobs
import unisono
from unisono import JobError, UsageError
from unisono.commands.verify import worlds
from unisono.commands.verify.report import VerifyReport
from unisono.commands.verify.worlds import World
from unisono.partition.layout import Layout
from unisono.runs import request
from unisono.runs.execution import supervised
from unisono.runs.jobfile import JobFile
from warm import host_for


def shown(report: VerifyReport, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(report.render())
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_every_situation_gives_one_hash(capfd: pytest.CaptureFixture[str]) -> None:
    job = jobs.make(jobs.Wild, optimizer=jobs.adamw)
    report = unisono.verify(job, [1, 2, 3], 4, lambda text: None, host=host_for(job))
    assert [world.name for world in report.worlds] == [
        "1 worker", "2 workers", "3 workers", "2 workers, one killed in steps 2 and 3",
        "2 workers to step 2, resumed by 3 workers", "--debug, OMP_NUM_THREADS=2",
    ]  # fmt: skip
    assert report.agree
    assert capfd.readouterr().out.count("was ended by SIGKILL") == 2
    assert not list(Path(tempfile.gettempdir()).glob("unisono-verify-*"))
    lines = shown(report).splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert report.worlds[0].parameters_sha256 in lines


def test_workers_that_own_devices_give_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.make(jobs.Wild, optimizer=jobs.adamw, evaluation=jobs.dataset)
    monkeypatch.setattr(worlds, "request_of", cpu_as_device.request_of)
    report = unisono.verify(job, [1, 2, 4], 4, lambda text: None, host=host_for(job), device="cuda")
    assert [world.name for world in report.worlds] == [
        "1 worker", "2 workers", "4 workers", "2 workers, one killed in steps 2 and 3",
        "2 workers to step 2, resumed by 4 workers",
    ]  # fmt: skip
    assert report.agree
    with supervised(job, host_for(job)) as execution:
        one = worlds.undisturbed(execution, Layout(data=1), "", 4)
    assert (one.parameters_sha256, one.digests) == (report.worlds[0].parameters_sha256, report.worlds[0].digests)


def test_a_device_that_is_not_there_is_refused_before_the_job_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "gpus", lambda: [])
    for device, refusal in (("cuda", "device='cuda' is for"), ("abacus", "device must be .* received 'abacus'")):
        with pytest.raises(UsageError, match=refusal):
            unisono.verify(JobFile("no.py", b"1 / 0"), device=device)


def test_a_world_with_more_workers_than_microbatches_says_so() -> None:
    job = jobs.make(microbatches=2)
    with supervised(job, host_for(job)) as execution:
        assert worlds.undisturbed(execution, Layout(data=3), "3 workers", 1).name == "3 workers (2 can work)"


class Counting(jobs.Mlp):
    """State that is not the model's: how often this process called it."""

    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        Counting.calls += 1
        return super().forward(inputs) * (1 + 0.01 * Counting.calls)


def test_the_first_difference_is_told() -> None:
    job = jobs.make(Counting)
    with supervised(job, host_for(job)) as execution:
        found = [worlds.undisturbed(execution, Layout(data=count), str(count), 3) for count in (1, 2)]
    report = VerifyReport(tuple(found), worlds.first_difference(found), None)
    assert not report.agree
    assert report.difference is not None
    assert report.difference[0] == 1
    assert "first after step 1, in parameter '" in " ".join(shown(report).split())


class Remembering(jobs.Mlp):
    """State that is not the model's, though it is the same in every world of one worker: the step."""

    steps = 0

    def forward(self, inputs: Tensor) -> Tensor:
        Remembering.steps += self.training
        return super().forward(inputs) * (1 + 0.01 * (Remembering.steps > 4))


def test_a_resumed_world_shows_what_a_new_process_forgets() -> None:
    job, one = jobs.make(Remembering, microbatches=1), Layout(data=1)
    with supervised(job, host_for(job)) as execution:
        undisturbed = [worlds.undisturbed(execution, one, str(number), 6) for number in (1, 2)]
        resumed = worlds.resumed(execution, (one, one), ("1", "2"), 6)
    assert undisturbed[0].parameters_sha256 == undisturbed[1].parameters_sha256
    assert resumed.name == "1 to step 3, resumed by 2"
    report = VerifyReport((undisturbed[0], resumed), worlds.first_difference([undisturbed[0], resumed]), None)
    assert not report.agree
    assert report.difference is not None
    assert report.difference[0] == 5
    assert "state that is neither parameters, buffers nor the optimizer's" in " ".join(shown(report).split())


def test_a_killed_world_was_really_killed() -> None:
    job = jobs.make(steps=4)
    with supervised(job, host_for(job)) as execution, pytest.raises(JobError, match=r"it has in steps \[4\] alone"):
        worlds.killed(execution, Layout(data=2), "2 workers", 8)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("--debug, OMP_NUM_THREADS=2", "what the job file does at its top"),
        ("2 workers, one killed in steps 2 and 3", "which a new process begins anew"),
        ("3 workers", "randomness or state that is not the model's"),
    ],
)
def test_the_advice_follows_who_differs(name: str, advice: str) -> None:
    alike, other = World("1 worker", 0.0, "a" * 64, {}), World(name, 0.0, "b" * 64, {})
    text = " ".join(shown(VerifyReport((alike, other), None, None)).split())
    assert advice in text
    assert "in buffers only" in text
