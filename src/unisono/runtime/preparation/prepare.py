"""From a job to all that a process needs to work on it: data opened, model made, rounds known."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

from unisono.errors import UsageError
from unisono.frameworks.registry import made
from unisono.job import Job
from unisono.machine.descriptors import shared_by_forks
from unisono.machine.devices import usable_memory
from unisono.partition.batches import Batches
from unisono.partition.layout import Layout
from unisono.partition.order import epoch_order
from unisono.runtime.loader.data_kinds import check_ends
from unisono.runtime.loader.samples import Example, RemoteData, SampleReader
from unisono.runtime.preparation.code_files import code_files
from unisono.runtime.preparation.cutting import cut_in_stages, probe_microbatches
from unisono.runtime.preparation.data_digests import digest_of, set_digests
from unisono.runtime.preparation.open_data import open_data
from unisono.runtime.preparation.prepared import Described, Prepared
from unisono.runtime.rules.request import Request
from unisono.runtime.rules.rounds import EvaluationSet, Program
from unisono.runtime.state.layout import Shape, host_layout
from unisono.runtime.worker.evaluation import check_names, named_by_best
from unisono.values.bounds import MOST_ROUNDS


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
    _check_device(request)
    shape = Shape(
        slots=layout.workers,
        most=useful,
        microbatches=job.microbatches,
        metrics=len(job.metric_functions),
        evaluation_times=program.evaluation_times,
        object_metrics=bool(job.metric_objects) and bool(evaluations),
        loaders=max(1, min(request.workers, useful, len(request.cores))),
        stages=layout.pipeline,
        replicas=request.device is not None,
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


def _check_device(request: Request) -> None:
    """Workers that own devices are those of one host."""
    if request.device is not None and request.several_hosts:
        raise UsageError(
            f"workers that own devices are for a run on one host; received device={request.device!r} and several "
            "hosts. Train on one of them, or leave the device out: CPUs of several hosts train together."
        )


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
