"""From a job to all that a process needs to work on it: data opened, model made, rounds known."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from unisono.errors import UsageError
from unisono.frameworks.protocol import DataFunctions
from unisono.frameworks.registry import Framework, made
from unisono.job import Job
from unisono.machine.descriptors import opened_since, shared_by_forks
from unisono.machine.devices import usable_memory
from unisono.memory.heap import LARGE_BYTES, keep_freed
from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.partition.batches import Batches
from unisono.partition.keys import key
from unisono.partition.layout import Layout
from unisono.partition.order import epoch_order
from unisono.runtime.loader.data_kinds import check_ends, check_kind
from unisono.runtime.loader.samples import Datasets, Example, RemoteData, Ring, SampleReader, taken
from unisono.runtime.preparation.code_files import CodeFile, code_files
from unisono.runtime.preparation.cutting import Cut, cut_in_stages, probe_microbatches
from unisono.runtime.preparation.data_digests import digest_of, set_digests
from unisono.runtime.rules.plan import Plan, even
from unisono.runtime.rules.rounds import EvaluationSet, Program, Round
from unisono.runtime.state.host_shares import HostShares
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import HostLayout, Shape, host_layout
from unisono.runtime.worker.context import Context, no_phase
from unisono.runtime.worker.evaluation import check_names, named_by_best
from unisono.runtime.worker.lr_schedule import Schedule
from unisono.runtime.worker.worker import Worker
from unisono.values.bounds import MOST_ROUNDS

SPIN_SECONDS = 100e-6

STAGE_LARGE_BYTES = 8 << 20
"""A stage frees one microbatch's activations while it keeps the next one's. In the heap that leaves gaps into which
what comes next does not fit, unless large ones are kept apart: a half more memory was measured."""


@dataclass(frozen=True)
class Request:
    """What a run asks of a host.

    Attributes:
        workers: slots wanted.
        threads: threads a worker.
        layout: how the work is split.
        recompute: keep only what crosses between a stage's units, and compute the rest again for the backward pass.
        timeline: have what is done when recorded.
        cores: the usable cores, best first, for pinning.
        trace: record parameter digests at each step.
        evaluate_only: no training step.
        several_hosts: whether other hosts train with this one.
        most_steps: stop after so many steps (`verify`).
        checkpoint_steps: steps between checkpoints, or None.
        checkpoint_evaluations: a checkpoint may follow each evaluation.
        change: makes the job that the run has of the one that is held, or None.
        folder: where a framework that has files for whole models leaves one at the end, or None.
        phase: called between pieces of work; only tests and `verify` use it.
    """

    workers: int
    threads: int
    cores: tuple[int, ...]
    layout: Layout = field(default_factory=Layout)
    recompute: bool = False
    timeline: bool = False
    trace: bool = False
    evaluate_only: bool = False
    several_hosts: bool = False
    most_steps: int | None = None
    checkpoint_steps: int | None = None
    checkpoint_evaluations: bool = False
    change: Callable[[Job], Job] | None = None
    folder: Path | None = None
    phase: Callable[[str, int, int, int], None] | None = None


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
            return all(map(is_opened_by_call, _given(self.job))) and not opened.items() & self.open_with_model.items()
        return True

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
        for live, value in zip(self.adapter.live_buffers(), state.buffers(steps), strict=True):
            live[...] = value
        self.adapter.export(self.request.folder / name)

    def catch_up(self, state: HostState, round: int) -> None:
        """Bring the schedules to a round, so that a process forked later need not."""
        self.schedule.catch_up(round, state.segment)

    def worker(
        self, member: int, state: HostState, poke: Callable[[], None], take: Callable[[Round, int], Any] | None = None
    ) -> Worker:
        """A member in this process.

        Args:
            member: its number.
            state: the host's shared state.
            poke: wakes the supervisor.
            take: how it gets microbatches; default: from the ring that the loaders fill.
        """
        self.framework.data.pin(self.request.threads)
        keep_freed(LARGE_BYTES if self.described.cut is None else STAGE_LARGE_BYTES)
        ring = self.ring(state.segment)
        context = Context(
            job=self.job, program=self.program, state=state, adapter=self.adapter, schedule=self.schedule,
            read=lambda round_, microbatch: self.reader().read(round_, microbatch),
            take=take or (lambda round_, microbatch: taken(ring.get(round_, microbatch))),
            reducers=self.framework.data.reducers(), cuts=self.described.cut.cuts if self.described.cut else (),
            recompute=self.request.recompute, timeline=self.request.timeline, trace=self.request.trace,
            copy_every=self.request.checkpoint_steps, copy_evaluations=self.request.checkpoint_evaluations,
            phase=self.request.phase or no_phase,
        )  # fmt: skip
        return Worker(member, context, self.spin_seconds, poke)


def open_data(job: Job, functions: DataFunctions) -> Datasets:
    """Call what is callable and check what came."""
    functions.seed_everything(key(job.seed, "data"))  # several processes may open them, and see the same
    collated = job.collate is not None
    training = _opened(job.data, "data", functions, collated)
    evaluation = job.evaluation
    if evaluation is None:
        return Datasets(training, {})
    evaluation = _called(evaluation)
    named = evaluation if isinstance(evaluation, Mapping) else {"evaluation": evaluation}
    opened = {name: _opened(data, f"evaluation {name!r}", functions, collated) for name, data in named.items()}
    return Datasets(training, opened)


def _given(job: Job) -> list[Any]:
    """A job's data as they are given."""
    evaluation = job.evaluation
    named = evaluation.values() if isinstance(evaluation, Mapping) else [evaluation]
    return [job.data, *(data for data in named if data is not None)]


def is_opened_by_call(data: Any) -> bool:
    """Whether these are no data, but a function or class of no arguments that gives some."""
    return isinstance(data, type) or (callable(data) and not hasattr(data, "__getitem__"))


def _called(data: Any) -> Any:
    return data() if is_opened_by_call(data) else data


def _opened(data: Any, what: str, functions: DataFunctions, collated: bool) -> Any:
    data = functions.opened(_called(data))
    check_kind(data, what, collated)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise UsageError(
            f"job.{what} must have len() and integer indexing, so that any worker can read any sample; received "
            f"{type(data).__name__}. Wrap it in a list or a map-style Dataset."
        )
    if len(data) == 0:
        raise UsageError(f"job.{what} must hold samples; it is empty. Check the path or the filter that made it.")
    return data


def prepare(job: Job, request: Request) -> Prepared:
    """Make the model, open the data and lay out the host's memory.

    Args:
        job: the job.
        request: what of it.

    Raises:
        UsageError: the job and its data do not fit together.
    """
    framework, model = made(job, request.threads)
    open_with_model = shared_by_forks()
    data = open_data(job, framework.data)
    if not isinstance(data.training, RemoteData):
        check_ends(data.training, "data", job.collate is not None)
    length = int(epoch_order(job.order, len(data.training), job.seed, 0).size)
    batches = Batches(length, job.batch_size, job.microbatches, job.drop_last)
    total = total_steps(job, batches)
    steps = 0 if request.evaluate_only else min(total, request.most_steps or total)
    evaluations = tuple(EvaluationSet(name, len(values)) for name, values in data.evaluation.items())
    check_names(job, list(data.evaluation))
    named_by_best(job, list(data.evaluation))
    if request.trace:
        evaluations = ()
    program = Program(batches, steps, job.evaluate_every, evaluations)
    _check_length(program)
    example = Example(job, data, framework.data)
    adapter = framework.adapter(job, model, total, example)
    useful = max(1, -(-min(job.batch_size, length) // batches.microbatch_size))
    layout = fitting(request.layout, request.workers, useful)
    shape = Shape(
        slots=layout.workers,
        most=useful,
        microbatches=job.microbatches,
        metrics=len(job.metric_functions),
        evaluation_times=program.evaluation_times,
        object_metrics=bool(job.metric_objects) and bool(evaluations),
        loaders=max(1, min(request.workers, useful, len(request.cores))),
        stages=layout.pipeline,
    )
    host = host_layout(adapter.describe(), shape)
    packed = example.read()
    cut = None
    if layout.pipeline > 1 or request.recompute:
        reader = SampleReader(job, program, data, framework.data)
        probes = probe_microbatches(program, reader)
        cut = cut_in_stages(adapter, host, layout, request.recompute, probes, job.seed, usable_memory())
        if not job.waits_for_norms and not request.several_hosts:  # otherwise an update needs all sums
            host = replace(host, stage_of=cut.stage_of(len(host.description.parameters)))
    digests = set_digests(data, job, framework.data) if request.several_hosts else {}
    samples = digest_of(data, job, framework.data)
    kept = None if framework.family.forks_after_computing else packed
    described = Described(
        framework.name, host, program, len(data.training), cut, kept, code_files(), digests, samples=samples
    )  # fmt: skip
    prepared = Prepared(job, request, framework, described, adapter, packed, open_with_model)
    prepared.data = data
    return prepared


def _check_length(program: Program) -> None:
    if program.rounds > MOST_ROUNDS:
        raise UsageError(
            f"a run has at most {MOST_ROUNDS} rounds, which are steps and, of each evaluation, as many as its samples "
            f"fill batches; received {program.steps} steps and {program.evaluation_times} evaluations of "
            f"{program.waves_per_evaluation}. Give it fewer epochs or steps, and resume it for more."
        )


def fitting(layout: Layout, workers: int, useful: int) -> Layout:
    """The layout as so many workers and a batch of so many non-empty microbatches fill it.

    Raises:
        UsageError: it needs more workers, or a pipe has fewer microbatches than stages.

    >>> fitting(Layout(), 16, 8), fitting(Layout(pipeline=2), 5, 8)
    (Layout(data=8, pipeline=1), Layout(data=2, pipeline=2))
    """
    data, stages = layout.on(workers).data or 1, layout.pipeline
    if layout.data is None or stages == 1:
        data = max(1, min(data, useful // stages))
    share = useful // data
    if share < stages:
        raise UsageError(
            f"a pipe needs at least as many microbatches as stages; {layout} leaves {share} of the batch's {useful} to "
            f"a pipe, so that {stages - share} of its {stages} workers would idle at any time. Use a smaller layout or "
            f"set microbatches={data * stages} or more (another result)."
        )
    return Layout(data, stages)


def prepare_again(job: Job, request: Request, described: Described) -> Prepared:
    """Make the model once more in a process that knows what another one found; data are opened only if needed."""
    framework, model = made(job, request.threads)
    prepared = Prepared(job, request, framework, described, packed=described.example)
    total = total_steps(job, described.program.batches)

    def first() -> Any:
        return pickle.loads(described.example) if described.example else Example(job, prepared.data, framework.data)()

    prepared.adapter = framework.adapter(job, model, total, first)
    return prepared


def total_steps(job: Job, batches: Batches) -> int:
    """The job's length in steps."""
    return job.steps if job.steps is not None else (job.epochs or 0) * batches.steps_per_epoch
