"""What passes on a device must give and must not fetch: cases, run in a process that knows the device "away"."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jobs
from frameworks import away
from unisono import Job
from unisono.errors import JobError, SpoiledError, UsageError
from unisono.frameworks.protocol import Measured
from unisono.frameworks.protocol.replica import Replica
from unisono.frameworks.pytorch import determinism, devices
from unisono.frameworks.pytorch.modes import Modes
from unisono.frameworks.pytorch.passes import Passes
from unisono.gradients.tree import fold
from unisono.memory.segment import Segment
from unisono.runtime.preparation.prepare import prepare
from unisono.runtime.preparation.prepared import Prepared
from unisono.runtime.rules.request import Request
from unisono.runtime.state.host_state import HostState

MICROBATCHES, SAMPLES = 4, 6
DEVICE = torch.device("privateuseone", 0)  # "away", once that is installed


class Cnn(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 5)
        )


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.2, batch_first=True)
        self.last = nn.Linear(16, 5)

    def forward(self, words: Tensor) -> Tensor:
        out: Tensor = self.last(self.layer(self.embedding(words)).mean(1))
        return out


def accuracy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    return (outputs.argmax(1) == targets).sum(), len(targets)


KEPT: dict[torch.device, Tensor] = {}


def weighted(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A weight that is known on the device alone, in a tensor that is used again for each microbatch."""
    counts = targets > 0
    kept = KEPT.setdefault(targets.device, torch.zeros((), device=targets.device))
    kept.copy_(counts.sum())
    return (F.cross_entropy(outputs, targets, reduction="none") * counts).sum(), kept


def made(model: Callable[[], nn.Module], **changes: Any) -> Job:
    return Job(**{
        "model": model, "loss": F.cross_entropy, "optimizer": torch.optim.AdamW, "data": [(0, 0)], "batch_size": 1,
        "epochs": 1, "metrics": {"accuracy": accuracy}, **changes,
    })  # fmt: skip


def batches(job: Job) -> list[Any]:
    torch.manual_seed(1)
    shape = (SAMPLES, 1, 8, 8)
    inputs = [
        torch.randn(shape) if job.model is not Transformer else torch.randint(0, 11, (SAMPLES, 7))
        for _ in range(MICROBATCHES)
    ]
    return [(each, torch.randint(0, 5, (SAMPLES,))) for each in inputs]


@dataclass
class Worked:
    """What a round, an update and an evaluation gave, on the CPU now."""

    rows: list[Measured]
    tensors: dict[str, Tensor]


def passes_on(job: Job, device: torch.device) -> Passes:
    torch.manual_seed(0)
    model = job.model()
    return Passes(job, model.to(device), Modes(model), lambda: None, device)


@contextmanager
def fetching(count: int) -> Iterator[None]:
    """A block in which so much is fetched from the device."""
    away.fetched.clear()
    yield
    assert len(away.fetched) == count, away.fetched


def work(job: Job, device: torch.device, given: list[Any]) -> Worked:
    """A round of all microbatches, AdamW's step, and an evaluation of each."""
    passes = passes_on(job, device)
    optimizer, used = job.optimizer(passes.model.parameters()), np.zeros(len(passes.named), np.uint8)
    sums = [torch.zeros_like(parameter) for parameter in passes.parameters]
    away_now = int(device.type != "cpu")
    rows = []
    with fetching(0):
        for number, batch in enumerate(given):
            passes.seed(number)
            rows.append(passes.gradient(batch, SAMPLES, sums, used, number > 0, None))
    with fetching(away_now):
        found = passes.numbers(rows)
    assert used.all()
    with fetching(0):
        for parameter, total in zip(passes.parameters, sums, strict=True):
            parameter.grad = total / (SAMPLES * MICROBATCHES)
        optimizer.step()
        passes.forget()
        rows = [passes.evaluate(batch, SAMPLES, False) for batch in given]
    with fetching(away_now):
        found += passes.numbers(rows)
    named = [*passes.named, *passes.named_buffers()]
    return Worked(found, {name: tensor.detach().cpu() for name, tensor in named})


def agree(job: Job) -> None:
    given = batches(job)
    there, here = work(job, DEVICE, given), work(job, devices.CPU, given)
    assert there.rows == here.rows
    for name, tensor in here.tensors.items():
        assert there.tensors[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def cnn() -> None:
    agree(made(Cnn))


def transformer() -> None:
    agree(made(Transformer))


def weights() -> None:
    agree(made(Cnn, loss=weighted))


def refused(job: Job, error: type[Exception], text: str) -> None:
    """What is wrong with a pass is said once its row is fetched."""
    passes = passes_on(job, DEVICE)
    sums, used = [torch.zeros_like(p) for p in passes.parameters], np.zeros(len(passes.named), np.uint8)
    with fetching(0):
        row = passes.gradient(batches(job)[0], SAMPLES, sums, used, False, None)
    with pytest.raises(error, match=text):
        passes.numbers([row])


def not_finite() -> None:
    refused(made(Cnn, loss=lambda outputs, targets: outputs.mean() / 0), JobError, "the loss must be finite; it is")


def no_graph() -> None:
    refused(made(Cnn, loss=lambda outputs, targets: outputs.detach().mean()), JobError, "no gradient follows")


class Spoiling(Cnn):
    def forward(self, inputs: Tensor) -> Tensor:
        self[5].weight.data[0] += 1
        out: Tensor = super().forward(inputs)
        return out


def spoiled() -> None:
    refused(made(Spoiling), SpoiledError, "it has changed '5.weight'")


class Counting(Cnn):
    """An attribute that lies on the device and is written in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.count = torch.zeros(3, device=DEVICE)

    def forward(self, inputs: Tensor) -> Tensor:
        self.count += 1
        out: Tensor = super().forward(inputs) * self.count.mean()
        return out


def attribute_that_counts() -> None:
    job = made(Counting)
    passes = passes_on(job, DEVICE)
    sums, used = [torch.zeros_like(p) for p in passes.parameters], np.zeros(len(passes.named), np.uint8)

    def work() -> None:
        for batch in batches(job):
            passes.gradient(batch, SAMPLES, sums, used, True, None)

    with pytest.raises(JobError, match="count"), fetching(0):
        work()


def no_gradient_is_zeros() -> None:
    """Of a parameter that a microbatch does not use; those that it is added to keep what they are."""
    job = made(lambda: nn.ModuleList([Cnn(), nn.Linear(2, 2)]), forward=lambda model, inputs: model[0](inputs))
    passes = passes_on(job, DEVICE)
    for add in (True, False):
        sums, used = [torch.ones_like(p) for p in passes.parameters], np.zeros(len(passes.named), np.uint8)
        passes.gradient(batches(job)[0], SAMPLES, sums, used, add, None)
        assert sums[-1].cpu().tolist() == [float(add)] * 2


def outputs_that_are_kept_come_home() -> None:
    job = made(Cnn)
    passes, batch = passes_on(job, DEVICE), batches(job)[0]
    with fetching(0):
        row = passes.evaluate(batch, SAMPLES, True)
    outputs, targets = passes.numbers([row])[0].outputs
    assert torch.equal(targets, batch[1])
    assert outputs.numpy().shape == (SAMPLES, 5)


def operation_without_an_algorithm() -> None:
    with (
        pytest.raises(JobError, match=r"on a device .*; sums has no such .* train on CPUs"),
        determinism.explained(DEVICE),
    ):
        raise RuntimeError("sums does not have a deterministic implementation, but you set")


def products_without_their_workspace() -> None:
    text = (
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or "
        "`at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic because it uses "
        "CuBLAS and you have CUDA >= 10.2. To enable deterministic behavior in this case, you must set"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
        with (
            pytest.raises(JobError, match=r"':4096:8' or ':16:8' alone; received ':0:0'\. Unset it"),
            determinism.explained(DEVICE),
        ):
            raise RuntimeError(text)


def batch_that_goes_there() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.ones(3), torch.ones(2)])
    inputs, (number, there) = devices.moved(({"a": torch.ones(1)}, [3, packed]), DEVICE)
    assert (inputs["a"].device, number, there.data.device, there.batch_sizes.device.type) == (DEVICE, 3, DEVICE, "cpu")


def precision_and_flags() -> None:
    with passes_on(made(Cnn, precision="bfloat16"), DEVICE).autocast():
        assert torch.is_autocast_enabled("away")
        assert not torch.is_autocast_enabled("cpu")
    matmul: Any = torch.backends.cuda.matmul
    for precision, allowed in (("tf32", True), ("float32", False)):
        devices.pin(DEVICE, precision)
        assert (matmul.fp32_precision == "tf32") is allowed
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert devices.fingerprint(DEVICE) == {"device": "away", "deterministic": "True"}


def replica_of(job: Job) -> tuple[Prepared, Replica]:
    """A replica in this process, as a run's first state makes it."""
    prepared = prepare(job, Request(1, 1, (0,), device="away"))
    state = HostState(prepared.layout, Segment.create(prepared.layout.segment))
    prepared.initialise(state)
    prepared.bind(state)
    replica = prepared.adapter.replica("away")
    replica.load(state, 0)
    return prepared, replica


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 33), nn.BatchNorm1d(33), nn.Dropout(0.2), nn.ReLU(), nn.Linear(33, 5))


def replica_fetches_a_rounds_rows_and_norms_alone() -> None:
    prepared, replica = replica_of(jobs.make(normed, optimizer=jobs.adamw, clip_norm=0.1))
    round_, reader = prepared.program.at(0), prepared.reader()
    total = prepared.program.nonempty(round_)
    read = [reader.read(round_, microbatch) for microbatch in range(total)]
    replica.begin(0, total)
    with fetching(0):
        for batch, step in zip(read, fold(0, total, total).steps, strict=True):
            replica.gradient(batch, prepared.program.samples(round_, step.microbatch), step)
    with fetching(1):
        rows = replica.rows()
    samples = sum(row.weight for row in rows)
    with fetching(1):
        assert replica.update(samples, int(samples), replica.used())
    with fetching(0):
        replica.evaluate(read[0], prepared.program.samples(round_, 0), False)


def optimizer_of_the_whole_model() -> None:
    with pytest.raises(UsageError, match=r"received LikeNone, and device='away'. Use one of torch.optim's on devices"):
        replica_of(jobs.make(optimizer=LikeNone))


class LikeNone(torch.optim.Optimizer):
    """No class that is listed, so that it is stepped over the whole model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.add_(parameter.grad, alpha=-self.param_groups[0]["lr"])


class Weighted(nn.Module):
    """A loss that has a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.arange(5.0))

    def forward(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        return F.cross_entropy(outputs, targets, self.weight, reduction="sum"), len(targets)


def loss_that_is_a_module_goes_there_too() -> None:
    loss = Weighted()
    replica_of(jobs.make(loss=loss))
    assert loss.weight.device == DEVICE


CASES: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        cnn,
        transformer,
        weights,
        not_finite,
        no_graph,
        spoiled,
        attribute_that_counts,
        no_gradient_is_zeros,
        outputs_that_are_kept_come_home,
        operation_without_an_algorithm,
        products_without_their_workspace,
        batch_that_goes_there,
        precision_and_flags,
        replica_fetches_a_rounds_rows_and_norms_alone,
        optimizer_of_the_whole_model,
        loss_that_is_a_module_goes_there_too,
    )
}


def main() -> None:
    """Run every case; print what went wrong in each."""
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    for enable in (torch.backends.cuda.enable_flash_sdp, torch.backends.cuda.enable_mem_efficient_sdp):
        enable(False)  # the CPU's own kernels, which the device has not
    away.install()
    told = dict.fromkeys(CASES, "")
    for name, case in CASES.items():
        try:
            case()
        except BaseException:
            told[name] = traceback.format_exc()
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
