"""A model cut into stages gives the bits of the whole one, in any layout and through any death."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import jobs
from faults import CORES, KILLS, Fault, Script, hash_of, run, undisturbed
from unisono import Job, Layout
from unisono.errors import UsageError
from unisono.observe.progress import Silent
from unisono.runs.execution import execute
from unisono.runs.observation import Observation
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.outcome import raise_failure
from waiting import until

JOBS: dict[str, Job] = {
    "deep": jobs.make(
        jobs.Deep, optimizer=jobs.adamw, clip_norm=0.5, schedule=jobs.warm, evaluation=jobs.dataset,
        metrics={"accuracy": jobs.accuracy},
    ),
    "odd": jobs.make(jobs.Deep, batch_size=26, microbatches=7, schedule=jobs.plateau, evaluation=jobs.dataset),
    "attention": jobs.make(jobs.Attention, optimizer=jobs.adamw, microbatches=6, batch_size=30),
    "bfloat16": jobs.make(jobs.Deep, precision="bfloat16"),
}  # fmt: skip
LAYOUTS = ["data=1,pipeline=2", "data=1,pipeline=3", "data=2,pipeline=2", "data=3,pipeline=2"]
KEPT = ("step", "loss", "gradient_norm", "accuracy", "evaluation/loss", "evaluation/accuracy")


def kept(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name in KEPT} for record in records]


@pytest.mark.few("deep-data=2,pipeline=2", "odd-data=1,pipeline=3")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", JOBS)
def test_every_layout_gives_the_bits_of_one_process(name: str, layout: str) -> None:
    wanted = Layout.parse(layout)
    expected, records = undisturbed(JOBS[name])
    outcome, found, messages = run(JOBS[name], wanted.workers, layout=wanted)
    raise_failure(outcome)
    assert outcome.described.layout.shape.stages == wanted.pipeline
    assert hash_of(outcome) == expected
    assert kept(found) == kept(records)
    assert messages == []


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("layout", ["data=3", "pipeline=3"])
def test_one_process_owns_all_stages_where_it_is_debugged(layout: str, recompute: bool) -> None:
    request = Request(3, 1, CORES, Layout.parse(layout), recompute)
    outcome = execute(JOBS["deep"], request, Observation(JOBS["deep"], Silent()), debug=True)
    raise_failure(outcome)
    assert hash_of(outcome) == undisturbed(JOBS["deep"])[0]


@pytest.mark.parametrize("layout", ["data=2", "pipeline=2"])
def test_recomputed_activations_change_no_bit(layout: str) -> None:
    outcome, _, _ = run(JOBS["deep"], 2, layout=Layout.parse(layout), recompute=True)
    raise_failure(outcome)
    assert hash_of(outcome) == undisturbed(JOBS["deep"])[0]


PHASES = ("compute", "forward", "backward", "update", "marked", "updated", "commit", "stamp", "publish")


def deaths(slots: int, rounds: int) -> tuple[Fault, ...]:
    """Each slot dies in each phase, one death a round, and now and then two at once; passes at various microbatches."""
    places = [(phase, slot) for phase in PHASES for slot in range(slots)]
    return tuple(
        Fault(phase, 1 + index % rounds, slot, signal=KILLS[index % 4]) for index, (phase, slot) in enumerate(places)
    )


@pytest.mark.few("0.5-data=2,pipeline=2")
@pytest.mark.parametrize("layout", ["data=1,pipeline=3", "data=2,pipeline=2"])
@pytest.mark.parametrize("clip_norm", [0.5, None])
def test_a_death_in_every_phase_of_every_stage(tmp_path: Path, layout: str, clip_norm: float | None) -> None:
    job = jobs.make(jobs.Deep, optimizer=jobs.adamw, clip_norm=clip_norm, steps=30)
    wanted = Layout.parse(layout)
    script = Script(tmp_path, deaths(wanted.workers, 27))
    expected, records = undisturbed(job)
    outcome, found, messages = run(job, wanted.workers, layout=wanted, phase=script)
    raise_failure(outcome)
    assert hash_of(outcome) == expected
    assert kept(found) == kept(records)
    assert script.struck >= 25
    assert len(messages) >= script.struck


def test_a_death_between_any_two_passes(tmp_path: Path) -> None:
    """Whatever has crossed already: the successor does all passes of the stage again and hands over the same bits."""
    job = jobs.make(jobs.Deep, steps=18, microbatches=4, drop_last=True)
    passes = [(way, slot, m) for way in ("forward", "backward") for slot in (0, 1) for m in range(4)]
    script = Script(tmp_path, tuple(Fault(way, 1 + at, slot, m) for at, (way, slot, m) in enumerate(passes)))
    outcome, _, _ = run(job, 2, layout=Layout(pipeline=2), phase=script)
    raise_failure(outcome)
    assert script.struck == len(passes)
    assert hash_of(outcome) == undisturbed(job)[0]


class LateStage:
    """In round 3 the first stage's last backward pass is held up until the last stage is updated; then it dies."""

    def __init__(self, folder: Path) -> None:
        self.updated, self.died = folder / "updated", folder / "died"

    def __call__(self, phase: str, round_: int, slot: int, chunk: int) -> None:
        if (phase, round_, slot) == ("updated", 3, 1):
            self.updated.touch()
        if (phase, round_, slot, chunk) == ("backward", 3, 0, 3) and not self.died.exists():
            until(self.updated.exists)
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_stage_is_updated_while_an_earlier_one_computes_and_even_dies(tmp_path: Path) -> None:
    job, late = jobs.make(jobs.Deep, optimizer=jobs.adamw, steps=6, microbatches=4, drop_last=True), LateStage(tmp_path)
    outcome, _, _ = run(job, 2, layout=Layout(pipeline=2), phase=late)
    raise_failure(outcome)
    assert late.died.exists()
    assert hash_of(outcome) == undisturbed(job)[0]


def test_a_whole_pipe_dies_at_once(tmp_path: Path) -> None:
    job = jobs.make(jobs.Deep, steps=12)
    faults = (*(Fault("backward", 4, slot, 2) for slot in (0, 1)), Fault("forward", 8, 2), Fault("forward", 8, 3))
    script = Script(tmp_path, faults)
    outcome, _, _ = run(job, 4, layout=Layout(2, 2), phase=script)
    raise_failure(outcome)
    assert script.struck >= 2
    assert hash_of(outcome) == undisturbed(job)[0]


def test_a_hung_stage_is_replaced_and_its_waiting_neighbours_are_not(tmp_path: Path) -> None:
    job = jobs.make(jobs.Deep, steps=8)
    script = Script(tmp_path, (Fault("backward", 3, 1, signal=0),))
    outcome, _, messages = run(job, 3, layout=Layout(pipeline=3), phase=script, stall_seconds=2)
    raise_failure(outcome)
    assert hash_of(outcome) == undisturbed(job)[0]
    assert [message for message in messages if "worker 0" in message or "worker 2" in message] == []


REFUSED = {
    "too many stages": (jobs.make(), 4, "pipeline=4", "Ask for pipeline="),
    "too few workers": (JOBS["deep"], 2, "data=2,pipeline=2", "data=2,pipeline=2 needs 4, and there are 2"),
    "too few microbatches": (
        jobs.make(jobs.Deep, microbatches=3), 4, "data=2,pipeline=2", "so that 1 of its 2 workers would idle",
    ),
}  # fmt: skip


@pytest.mark.few("too many stages", "too few microbatches")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_the_way_out(case: str) -> None:
    job, workers, layout, text = REFUSED[case]
    with pytest.raises(UsageError, match=text):
        raise_failure(run(job, workers, layout=Layout.parse(layout))[0])
