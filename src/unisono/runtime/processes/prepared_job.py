"""The job of a warm parent, made ready: for children that work at once, or that make the model again (see there)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from unisono.errors import UnisonoError
from unisono.frameworks.registry import framework
from unisono.job import Job
from unisono.machine.descriptors import is_single, shared_by_forks
from unisono.machine.gpu_shares import sight
from unisono.memory.heap import trim
from unisono.memory.segment import Segment
from unisono.runtime.loader.samples import load_ahead
from unisono.runtime.preparation.prepare import prepare, prepare_again
from unisono.runtime.preparation.prepared import Described, Prepared
from unisono.runtime.preparation.probe import probed
from unisono.runtime.processes.job_holder import Again, Holder, again, changed_environment, in_child
from unisono.runtime.processes.printing import print_nothing
from unisono.runtime.processes.profiler import measured, stand_back
from unisono.runtime.rules.request import Request
from unisono.runtime.state.host_state import HostState


class PreparedJob:
    """What is made of a job, in a warm parent and its children.

    Args:
        holder: holds the job.

    Attributes:
        request: what of it, on what.
    """

    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        self.request: Request
        self._described: Described
        self._prepared: Prepared
        self._state: HostState
        self._event = -1

    def _job(self) -> Job:
        """The job as the run has it."""
        job, change = self.holder.job(self.request.threads), self.request.change
        return job if change is None else change(job)

    def prepare(self, request: Request) -> Described | Again:
        """Make the job ready here."""
        before = shared_by_forks()
        self._make(request)
        try:
            self._look_at_device()
        except UnisonoError:  # begun here by the job's code, or by what it has called: then each child makes it
            return again()
        family = self._prepared.framework.family
        if not family.forks_after_computing:
            return Again((family.package,), apart=False, environment=changed_environment())
        return self._prepared.described if is_single() and self._prepared.reads_apart(before) else again()

    def _make(self, request: Request) -> None:
        self.request = request
        self._prepared = prepare(self._job(), request)

    def _look_at_device(self) -> None:
        """See what of the workers' devices decides about bits; who forks leaves them alone, and asks a child."""
        device, prepared = self.request.device, self._prepared
        if device in (None, "cpu"):
            return

        def seen() -> Mapping[str, str]:
            os.environ.update(sight(self.request.gpus, 0))
            found: Mapping[str, str] = prepared.adapter.fingerprint(device)
            return found

        prepared.add_fingerprint(seen() if self.holder.is_cold else in_child(seen))

    def rehearsed(self, request: Request) -> Described:
        """Make the job ready in a child, which is not forked any more."""
        os.environ.update(sight(request.gpus, 0))
        self._make(request)
        self._look_at_device()
        self._prepared.adapter.compile()
        return self._prepared.described

    def write(self, initialise: bool, segment: int) -> Mapping[str, str]:
        """Write the first values to shared memory, if so wished, and make the model's parameters views of it; returns
        what other hosts compare (see `probed`)."""
        layout = self._prepared.layout
        self._state = HostState(layout, Segment(segment, layout.segment))
        if initialise:
            self._prepared.initialise(self._state)
        self._prepared.bind(self._state)
        trim()  # the model's first values are in shared memory now
        return self._probed() if initialise and self.request.several_hosts else {}

    def _probed(self) -> Mapping[str, str]:
        """In a process that ends afterwards: the scout, or a child of its own."""

        def quietly() -> dict[str, str]:
            print_nothing()  # the first step prints it all
            return probed(self._prepared, self._state)

        found: dict[str, str] = {}
        with contextlib.suppress(UnisonoError):  # it has crashed, as a worker will
            found = quietly() if self.holder.is_cold else in_child(quietly)
        return found

    def attend(self, described: Described, segment: int, event: int) -> None:
        """The shared memory is written: get ready to fork."""
        self._described, self._event = described, event
        if self.holder.is_cold:
            self._state = HostState(described.layout, Segment(segment, described.layout.segment))
        else:
            os.close(segment)  # "write" has mapped it here

    def catch_up(self, round: int) -> None:
        """Bring the schedules to a round, so that a child forked later need not."""
        if not self.holder.is_cold:
            self._prepared.catch_up(self._state, round)

    # -- in a child ----------------------------------------------------------------------------------------

    def export(self, steps: int) -> None:
        """Leave the model in its framework's own file."""
        self._made_again().export(self._state, steps)

    def _made_again(self) -> Prepared:
        if self.holder.is_cold:
            self._prepared = prepare_again(self._job(), self.request, self._described)
            self._prepared.bind(self._state)
        return self._prepared

    def worker(self, number: int) -> None:
        """The life of a worker."""
        prepared, device = self._made_again(), self.request.device

        def poke() -> None:
            os.eventfd_write(self._event, 1)

        if device is None:
            prepared.worker(number, self._state, poke).run()
        else:
            try:
                prepared.replica_worker(number, self._state, poke, device).run()
            except Exception as error:
                if failed := prepared.adapter.device_failed(error):
                    raise failed from error
                raise

    def loader(self, number: int) -> None:
        """The life of a loader."""
        if self.holder.is_cold:
            family = framework(self._described.framework)
            self._prepared = Prepared(self._job(), self.request, family, self._described)
        prepared = self._prepared
        prepared.check_data()
        share = (number, prepared.layout.shape.loaders)
        load_ahead(prepared.reader(), prepared.program, prepared.ring(self._state.segment), self._state, share)

    def profiler(self, number: int) -> None:
        """The life of the spare process that measures."""
        stand_back()
        found = self._state.segment["profile"]
        self._state = HostState(self._described.layout, self._state.segment.private())
        prepared = self._made_again()
        prepared.bind(self._state)
        found[:] = measured(prepared)
