"""A run in this process, for debugging: one member, no loader, no protocol partner."""

from __future__ import annotations

from typing import Any

from unisono.errors.exits import exit_told
from unisono.errors.failure import Failure, WorkerFailed
from unisono.errors.traces import user_traceback
from unisono.job import Job
from unisono.memory.segment import Segment
from unisono.runtime.preparation.prepare import prepare
from unisono.runtime.preparation.prepared import Prepared
from unisono.runtime.rules.plan import Plan, position
from unisono.runtime.rules.request import Request
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.records import Records
from unisono.runtime.supervisor.outcome import Outcome
from unisono.runtime.supervisor.watcher import Watcher


def _export(prepared: Prepared, state: HostState, plan: Plan, watcher: Watcher) -> None:
    try:
        prepared.export(state, prepared.program.position(plan.round)[0])
    except Exception as error:  # whatever the job's layers raise; the parameters are saved all the same
        watcher.message(f"{prepared.framework.family.model_file} was not written: {error}")


def run_here(job: Job, request: Request, watcher: Watcher) -> Outcome:
    """Run a job's rounds; breakpoints and profilers see ordinary Python.

    Args:
        job, request, watcher: as in `Execution`.
    """
    with watcher.obeyed():
        prepared = prepare(job, request)
    watcher.described(prepared.described)
    segment = Segment.create(prepared.layout.segment)
    state = HostState(prepared.layout, segment)
    prepared.initialise(state)
    prepared.bind(state)
    first, go_on = watcher.restore(prepared.described, state)
    state.begin(first)
    members = (0,) * prepared.layout.shape.slots  # one process owns the stages of a pipe too
    state.plans.seat(members)
    stop = not go_on or first >= prepared.program.rounds
    state.plans.stamp(prepared.described.opening(first, members, stop))
    records = Records(state, first)
    reader, ring = prepared.reader(), prepared.ring(segment)

    def take(round_: Round, microbatch: int) -> Any:
        """By way of the ring, so that inputs are laid out in memory as a worker sees them."""
        ring.put(round_, microbatch, reader.read(round_, microbatch))
        return ring.get(round_, microbatch)

    def between() -> None:
        plan = records.plan
        records.drain(watcher.record)
        if plan.copy:
            go_on = watcher.copy(prepared.described, state, plan.round)
            state.control.publish(Control.COPIED if go_on else Control.END, plan.round + 1)
        if watcher.copy_wanted():
            state.control.publish(Control.ASKED, plan.asked + 1)
        if watcher.interrupted():
            state.control.publish(Control.STOP, 1)

    failure: Failure | None = None
    try:
        prepared.worker(0, state, lambda: None, take).run(between)
        records.drain(watcher.record)
        _export(prepared, state, records.plan, watcher)
    except WorkerFailed as error:
        failure = error.description
    except SystemExit as leaving:
        failure = Failure(exit_told(leaving), user_traceback(leaving))
    finally:
        segment.close()
    at_rest = all(position(int(word), records.plan.round) == 0 for word in segment["progress"][:, 0])
    # The memory stays: a model of the caller's lies in it.
    return Outcome(prepared.described, state, records.plan.round, at_rest, failure)
