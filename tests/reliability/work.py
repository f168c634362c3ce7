"""The job that the campaign trains: a few milliseconds a step; it can be met in any of its phases, and has any fault.

The environment says where: MEET names the phase in which the first process to reach it waits for the campaign, in the
folder MEETING; FAULT, "PHASE:WHAT", what goes wrong in a phase.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

import jobs
from reliability import wrongs
from unisono import Job
from waiting import until

BATCH = 32
PHASES = ("import", "job", "model", "data", "sample", "loss", "middle", "late", "evaluation")
LATE = 10
"""The step whose samples are read in the phase "late"."""

_calls: list[int] = []


def phase(name: str) -> None:
    """This process has come to a phase of the job."""
    where, _, what = os.environ.get("FAULT", "").partition(":")
    if where == name:
        wrongs.WRONGS[what]()
    if os.environ.get("MEET") == name:
        folder = Path(os.environ["MEETING"])
        try:
            os.close(os.open(folder / "met", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        until((folder / "go").exists, "the campaign says go")


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Random ones, in order: an epoch of 16 steps."""

    def __init__(self) -> None:
        phase("data")
        self._samples = jobs.dataset(16 * BATCH)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if Path("/proc/self/comm").read_text() == "unisono-loader\n":  # others look at some samples at the start
            phase("sample" if index < LATE * BATCH else "late")
        inputs, targets = self._samples[index]
        return inputs, targets


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, in Chinese."""
    _calls.append(1)
    phase("loss" if len(_calls) < 8 else "middle")
    if len(_calls) % 8 == 1:
        print("损失：漢字 é", flush=True)
    return torch.nn.functional.cross_entropy(outputs, targets)


def predict(net: torch.nn.Module, inputs: Tensor) -> Any:
    """The model's outputs, in evaluation."""
    phase("evaluation")
    return net(inputs)


def model() -> torch.nn.Module:
    """With BatchNorm and dropout."""
    phase("model")
    return jobs.Wild()


def infer(model: Callable[[Tensor], Tensor], word: str) -> str:
    """All bits of the answer to random inputs that a word draws."""
    inputs = torch.randn(4, jobs.FEATURES, generator=torch.Generator().manual_seed(int(word)))
    return " ".join(f"{value:.9g}" for value in model(inputs).flatten().tolist())


def job(steps: int = 12, rate: float = 0.01, heavy: int = 0) -> Job:
    """The job.

    Args:
        steps: of the run.
        rate: the optimizer's.
        heavy: bytes more that every checkpoint holds.
    """
    phase("job")

    def made() -> torch.nn.Module:
        net = model()
        net.register_buffer("heavy", torch.zeros(heavy, dtype=torch.uint8))
        return net

    return jobs.make(
        made, loss=loss, steps=steps, batch_size=BATCH, data=Samples, order="sequential",
        optimizer=lambda net: torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=rate),
        evaluation=lambda: jobs.dataset(2 * BATCH, seed=2), evaluate_every=4, metrics={"accuracy": jobs.accuracy},
        predict=predict, best=("max", "accuracy"), infer=infer,
    )  # fmt: skip


phase("import")
