"""A case on two workers: Unisono, DDP, or torch.distributed.pipelining.

python pipeline_peer.py MODE CASE STEPS FOLDER [timeline]

MODE: a layout of Unisono ("data=2", "pipeline=2"), or "ddp", "pipelining", "halves" or "halves-keeping", which are
started twice, with RANK, WORLD_SIZE, CORES, MASTER_ADDR and MASTER_PORT. All train the same parameters on the same
samples: an equal last loss shows that they did the same work. Halves are no contenders, and have no loss: see there.
FOLDER gets result.json: the seconds of each step and the last loss; Unisono's run lies in its run/.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from common import pinned
from keeping import KeepingOld, chunks
from pipeline_models import BATCHES, CASES, Case, optimizer
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.parallel import DistributedDataParallel

import unisono

Step = Callable[[Tensor, Tensor], float]


def unisono_run(case: Case, layout: str, steps: int, folder: Path, timeline: bool) -> tuple[list[float], float]:
    """The seconds of each step, and the last loss."""
    job = unisono.Job(
        model=case.model, loss=F.cross_entropy, optimizer=optimizer, data=case.data, batch_size=case.batch_size,
        microbatches=case.microbatches, order="sequential", steps=steps,
    )  # fmt: skip
    run = unisono.train(job, workers=2, layout=layout, timeline=timeline, out=folder / "run", live=False)
    return [record["step_seconds"] for record in run.history], run.history[-1]["loss"]


def ddp_step(case: Case, rank: int) -> Step:
    """A step on half the microbatches, whose gradients are exchanged with the last one's backward pass."""
    model = DistributedDataParallel(case.model(), gradient_as_bucket_view=True)
    updates = optimizer(model)
    share = case.microbatches // 2

    def step(inputs: Tensor, targets: Tensor) -> float:
        updates.zero_grad()
        total = 0.0
        mine = range(rank * share, (rank + 1) * share)
        for number in mine:
            rows = slice(number * case.rows, (number + 1) * case.rows)
            with nullcontext() if number == mine[-1] else model.no_sync():
                loss = F.cross_entropy(model(inputs[rows]), targets[rows]) / share
                torch.autograd.backward(loss)
            total += float(loss.detach())
        updates.step()
        return total

    return step


def pipelining_step(case: Case, rank: int) -> Step:
    """A step of one stage: the model's first or second half."""
    whole = case.model()
    half = whole[case.cut :] if rank else whole[: case.cut]
    stage = PipelineStage(half, rank, 2, torch.device("cpu"))
    schedule = Schedule1F1B(stage, case.microbatches, loss_fn=F.cross_entropy)
    updates = optimizer(half)

    def step(inputs: Tensor, targets: Tensor) -> float:
        updates.zero_grad()
        losses: list[Tensor] = []
        if rank:
            schedule.step(target=targets, losses=losses, return_outputs=False)
        else:
            schedule.step(inputs, return_outputs=False)
        updates.step()
        return sum(float(loss.detach()) for loss in losses) / case.microbatches

    return step


def half_of(case: Case, rank: int) -> tuple[nn.Sequential, Callable[[Tensor, Tensor, int], None]]:
    """A stage, and its passes for a microbatch (inputs and targets of a batch, number) with nothing handed over."""
    whole = case.model()
    half = whole[case.cut :] if rank else whole[: case.cut]
    with torch.no_grad():
        crossing = whole[: case.cut](case.tensors()[0][: case.rows])

    def passes(inputs: Tensor, targets: Tensor, number: int) -> None:
        rows = slice(number * case.rows, (number + 1) * case.rows)
        if rank:
            torch.autograd.backward(F.cross_entropy(half(crossing.detach().requires_grad_()), targets[rows]))
        else:
            torch.autograd.backward(half(inputs[rows]), crossing)  # any values will do

    return half, passes


def halves_step(case: Case, rank: int) -> Step:
    """What two stages take without each other: in plain PyTorch, both at the same time, each half's passes for one
    microbatch more than there are (1F1B's bubble), and its update. Nothing is handed over, and nobody waits."""
    half, passes = half_of(case, rank)
    updates = optimizer(half)

    def step(inputs: Tensor, targets: Tensor) -> float:
        updates.zero_grad()
        for number in (0, *range(case.microbatches)):
            passes(inputs, targets, number)
        updates.step()
        return math.nan

    return step


def halves_keeping_step(case: Case, rank: int) -> Step:
    """The same with what Unisono promises, done as plainly: gradients are added along the tree over microbatches (as
    each comes; a power of two of them), and an update copies each chunk's old values first. Parameters, and each
    partial sum, are one flat vector, so that a chunk is one tensor."""
    half, passes = half_of(case, rank)
    parameters = list(half.parameters())
    sizes = [parameter.numel() for parameter in parameters]
    values = torch.cat([parameter.detach().view(-1) for parameter in parameters])
    sums = torch.zeros((case.microbatches - 1).bit_length(), len(values))
    updates = KeepingOld(optimizer, chunks([values]))
    current: int | None = None  # the microbatch

    def receiver(places: tuple[Tensor, ...]) -> Callable[[Tensor], None]:
        def receive(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            assert gradient is not None
            if current is None:
                return
            held = current.bit_count()  # partial sums before it
            complete = (~current & (current + 1)).bit_length() - 1  # nodes of the tree that it completes
            if not complete:
                places[held].copy_(gradient.view(-1))
            for node in range(held - 1, held - 1 - complete, -1):
                places[node].add_(gradient.view(-1) if node == held - 1 else places[node + 1])

        return receive

    by_sum = [each.split(sizes) for each in sums]
    for number, (parameter, value) in enumerate(zip(parameters, values.split(sizes), strict=True)):
        parameter.data = value.view_as(parameter)
        parameter.register_post_accumulate_grad_hook(receiver(tuple(places[number] for places in by_sum)))

    def step(inputs: Tensor, targets: Tensor) -> float:
        nonlocal current
        for current in (None, *range(case.microbatches)):
            passes(inputs, targets, current or 0)
        updates.step(gradient.div_(case.microbatches) for gradient in chunks(sums[:1]))
        return math.nan

    return step


def timed(case: Case, step: Step, steps: int) -> tuple[list[float], float]:
    """The seconds of each step, and this process's last loss."""
    inputs, targets = case.tensors()
    seconds, loss = [], 0.0
    dist.barrier()
    last = time.perf_counter()
    for number in range(steps):
        rows = slice(number % BATCHES * case.batch_size, (number % BATCHES + 1) * case.batch_size)
        loss = step(inputs[rows], targets[rows])
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    return seconds, loss


STEPS = {"ddp": ddp_step, "pipelining": pipelining_step, "halves": halves_step, "halves-keeping": halves_keeping_step}


def main(mode: str, case_name: str, steps: int, folder: Path, timeline: bool) -> None:
    """Train so many steps and write how long each took."""
    case, writes = CASES[case_name], True
    if mode in STEPS:
        rank, _ = pinned()
        torch.set_num_threads(1)
        dist.init_process_group("gloo")
        seconds, loss = timed(case, STEPS[mode](case, rank), steps)
        if mode == "ddp":
            both = torch.tensor(loss)
            dist.all_reduce(both)
            loss = float(both) / 2
        writes = rank == 1  # the last stage knows the loss
    else:
        seconds, loss = unisono_run(case, mode, steps, folder, timeline)
    if writes:
        kept = {"seconds": seconds, "loss": loss, "framework": f"torch {torch.__version__}"}
        (folder / "result.json").write_text(json.dumps(kept))
    if dist.is_initialized():
        dist.barrier()  # nobody leaves before it is written
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), "timeline" in sys.argv[5:])
