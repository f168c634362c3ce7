"""A job made ready: what of it travels to the supervisor, and what one process has of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from unisono.errors import UsageError
from unisono.frameworks.registry import Framework
from unisono.job import Job
from unisono.machine.descriptors import opened_since
from unisono.memory.heap import LARGE_BYTES, keep_freed
from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.runtime.loader.samples import Datasets, Example, Ring, SampleReader, taken
from unisono.runtime.preparation.code_files import CodeFile
from unisono.runtime.preparation.cutting import Cut
from unisono.runtime.preparation.data_digests import digest_of
from unisono.runtime.preparation.open_data import given, is_opened_by_call, open_data
from unisono.runtime.replicas.worker import ReplicaWorker
from unisono.runtime.rules.plan import Plan, even
from unisono.runtime.rules.request import Request
from unisono.runtime.rules.rounds import Program, Round
from unisono.runtime.state.host_shares import HostShares
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import HostLayout
from unisono.runtime.worker.context import Context
from unisono.runtime.worker.lr_schedule import Schedule
from unisono.runtime.worker.worker import Worker

SPIN_SECONDS = 100e-6

STAGE_LARGE_BYTES = 8 << 20
"""A stage frees one microbatch's activations while it keeps the next one's. In the heap that leaves gaps into which
what comes next does not fit, unless large ones are kept apart: a half more memory was measured."""


@dataclass(frozen=True)
class Described:
    """What the supervisor learns of the prepared job.

    Attributes:
        framework: the adapter's package.
        layout: the host's shared memory.
        program: the rounds.
        data_length: training samples.
        cut: how the model is cut; None = it is computed whole.
        code: the files of the job's own code, by name.
        data: what hosts compare of each set (see `set_digests`).
        probe: what hosts compare of a microbatch (see `probed`).
        samples: digest of some samples: whoever opens the data again must have the same, in a resumed run too.
        example: what `Example` gives, packed, so that processes that make the model again need not open the
            data; None if it could not be had.
    """

    framework: str
    layout: HostLayout
    program: Program
    data_length: int
    cut: Cut | None = None
    example: bytes | None = None
    code: Mapping[str, CodeFile] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    probe: Mapping[str, str] = field(default_factory=dict)
    samples: str = ""

    def opening(
        self, first: int, members: tuple[int, ...], stop: bool, shares: HostShares | None = None, copy: bool = False
    ) -> Plan:
        """The plan of the round that a crew begins with.

        Args:
            first: that round.
            members: who sits where.
            stop: whether the run ends instead.
            shares: what hosts have agreed on; None = there is one.
            copy: whether the supervisor looks at the state first.
        """
        shape = self.layout.shape
        training = first >= self.program.rounds or self.program.at(first).evaluation is None
        stages = shape.stages if training else 1
        hosts = shares.of_round(training) if shares else ()
        own = shares.own(hosts) if shares else range(shape.microbatches)
        boundaries = tuple(own.start + boundary for boundary in even(len(own), len(members) // stages))
        return Plan(first, boundaries, members, stages, copy, stop, hosts=hosts)


@dataclass
class Prepared:
    """A job ready to run in this process.

    Attributes:
        job, request: what to run.
        framework: whose model it is.
        described: the part that travels.
        adapter: the model; None in a process that only reads samples.
        packed: what `Example` gives, packed; None if it could not be had.
        open_with_model: what was open once the model was made (see `shared_by_forks`).
    """

    job: Job
    request: Request
    framework: Framework
    described: Described
    adapter: Any = None
    packed: bytes | None = None
    open_with_model: Mapping[int, str] = field(default_factory=dict)

    def reads_apart(self, before: Mapping[int, str]) -> bool:
        """Have children open the data for themselves where the data hold files open; False where they cannot.

        Args:
            before: what was open before the job was made ready.
        """
        opened = opened_since(before)
        if opened:
            del self.data
            return all(map(is_opened_by_call, given(self.job))) and not opened.items() & self.open_with_model.items()
        return True

    def add_fingerprint(self, found: Mapping[str, str]) -> None:
        """More is known of what decides about bits."""
        layout = self.described.layout
        description = replace(layout.description, fingerprint={**layout.description.fingerprint, **found})
        self.described = replace(self.described, layout=replace(layout, description=description))

    def check_data(self) -> None:
        """Look at the data that this process reads, where they were not opened with the others'.

        Raises:
            UsageError: they are others.
        """
        if "data" in vars(self):
            return
        digest = digest_of(self.data, self.job, self.framework.data)
        if digest != self.described.samples:
            raise UsageError(
                "data that several processes open must be the same in each; received others in this one (digest of "
                f"some: {self.described.samples} first, {digest} here). Seed what is random where they are opened: "
                "np.random.default_rng(0)."
            )

    @cached_property
    def data(self) -> Datasets:
        """The data, opened where they are needed."""
        return open_data(self.job, self.framework.data)

    @cached_property
    def schedule(self) -> Schedule:
        """The learning-rate schedules of this process."""
        return Schedule(self.program, self.adapter)

    @property
    def program(self) -> Program:
        """The rounds."""
        return self.described.program

    @property
    def layout(self) -> HostLayout:
        """The host's shared memory."""
        return self.described.layout

    @property
    def spin_seconds(self) -> float:
        """How long waits look before they sleep: not at all when workers, and who speaks to others, outnumber cores."""
        processes = self.layout.shape.slots + self.request.several_hosts
        return SPIN_SECONDS if processes <= len(self.request.cores) else 0.0

    def ring(self, segment: Segment) -> Ring:
        """The ring of samples in this process."""
        return Ring(self.layout, segment, Words(segment, "ready", self.spin_seconds), self.framework.data.reducers())

    def reader(self) -> SampleReader:
        """A reader of samples for this process."""
        return SampleReader(self.job, self.program, self.data, self.framework.data)

    def example(self) -> tuple[Any, int]:
        """A microbatch of the first samples, and how many they are."""
        samples = min(len(self.data.training), self.program.batches.microbatch_size)
        return Example(self.job, self.data, self.framework.data)(), samples

    def initialise(self, state: HostState) -> None:
        """Write the initial state to shared memory."""
        self.adapter.initial(state.parameters())
        for live, first in zip(self.adapter.live_buffers(), state.buffers(0), strict=True):
            first[...] = live
        trained, scalars = self.layout.trained, state.scalars(0)
        self.adapter.initial_state({n: state.state(n) for n in trained}, {n: scalars[n] for n in trained})
        for index, tree in state.trees.items():
            tree.write(0, *self.adapter.state_tree(index))
        for number, values in state.averaged().items():
            values[...] = state.parameter(number)

    def bind(self, state: HostState) -> None:
        """Make the model's parameters views of shared memory."""
        self.adapter.bind(state.parameters())
        if state.trees:
            self.adapter.bind_trees(state.trees, state.averaged())

    def export(self, state: HostState, steps: int) -> None:
        """Leave the model in its framework's own file, if there is such a thing."""
        name = self.framework.family.model_file
        if name is None or self.request.folder is None:
            return
        self.adapter.load_buffers(state.buffers(steps))
        self.adapter.export(self.request.folder / name)

    def catch_up(self, state: HostState, round: int) -> None:
        """Bring the schedules to a round, so that a process forked later need not."""
        self.schedule.catch_up(round, state.segment)

    def worker(
        self, member: int, state: HostState, poke: Callable[[], None], take: Callable[[Round, int], Any] | None = None
    ) -> Worker:
        """A member in this process that works on the model in the host's memory.

        Args:
            member: its number.
            state: the host's shared state.
            poke: wakes the supervisor.
            take: how it gets microbatches; default: from the ring that the loaders fill.
        """
        ring = self.ring(state.segment)
        context = self._context(state, take or (lambda round_, microbatch: taken(ring.get(round_, microbatch))))
        return Worker(member, context, self.spin_seconds, poke)

    def replica_worker(self, member: int, state: HostState, poke: Callable[[], None], device: str) -> ReplicaWorker:
        """A member in this process that owns a device: see `worker`."""
        ring = self.ring(state.segment)

        def take(round_: Round, microbatch: int) -> Any:
            """What the loaders have read; of a round that is done again its place in the ring may be another's."""
            plan = state.plans.in_force()
            if plan is not None and plan.round > round_.number:
                return self.reader().read(round_, microbatch)
            return taken(ring.get(round_, microbatch))

        context = self._context(state, take)
        return ReplicaWorker(member, context, self.adapter.replica(device), self.spin_seconds, poke)

    def _context(self, state: HostState, take: Callable[[Round, int], Any]) -> Context:
        self.framework.data.pin(self.request.threads)
        keep_freed(LARGE_BYTES if self.described.cut is None else STAGE_LARGE_BYTES)
        return Context(
            job=self.job, request=self.request, program=self.program, state=state, adapter=self.adapter,
            schedule=self.schedule, take=take,
            read=lambda round_, microbatch: self.reader().read(round_, microbatch),
            reducers=self.framework.data.reducers(), cuts=self.described.cut.cuts if self.described.cut else (),
        )  # fmt: skip
