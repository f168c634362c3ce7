"""What each worker gets: parts that are disjoint and make the whole."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console
from torch import Tensor

import jobs
from unisono.commands.partition import PartitionReport, partition
from unisono.errors import UsageError
from unisono.partition.layout import Layout

DEEP = jobs.make(jobs.Deep)


def shown(report: PartitionReport) -> str:
    text = io.StringIO()
    Console(width=200, file=text).print(report.render())
    return text.getvalue()


@pytest.mark.parametrize(("workers", "pipeline"), [(1, 1), (3, 1), (2, 2), (4, 2), (6, 3)])
def test_the_parts_are_disjoint_and_make_the_whole(workers: int, pipeline: int) -> None:
    report = partition(DEEP, workers, pipeline)
    assert report.layout == Layout(workers // pipeline, pipeline)
    assert report.sound
    assert len(report.parts) == workers
    for pipe in range(workers // pipeline):
        stages = [part for part in report.parts if part.pipe == pipe]
        assert [part.stage for part in stages] == list(range(pipeline))
        assert sum(part.share for part in stages) == pytest.approx(1)
        numbers = [number for part in stages for number in part.parameters]
        assert len(set(numbers)) == len(numbers)
        trained = {id(p): p.numel() for p in jobs.Deep().parameters() if p.requires_grad}
        assert sum(part.elements for part in stages) == sum(trained.values())
    assert sum(part.samples for part in report.parts if part.stage == 0) == jobs.SAMPLES
    assert report.parts[0].data_bytes == report.parts[0].samples * (4 * jobs.FEATURES + 8)


def test_the_predicted_bubble_is_that_of_the_smallest_pipe() -> None:
    assert partition(DEEP, 2, 2).bubble == pytest.approx(1 / 9)
    assert partition(DEEP, 4, 2).bubble == pytest.approx(1 / 5)
    assert partition(DEEP, 2, 1).bubble == 0


def test_what_is_shown() -> None:
    text = shown(partition(DEEP, 4, 2))
    assert "data: every sample of an epoch belongs to exactly one pipe: yes" in text
    assert "model: every trained parameter belongs to exactly one stage: yes" in text
    assert "predicted bubble 20.0%" in text
    assert "blocks.0" in text or "first" in text


class Branching(torch.nn.Module):
    """Looks at a value in the middle of its own forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(jobs.FEATURES, jobs.CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(inputs)
        return out * 2 if float(out.sum().detach()) > 0 else out


def test_a_model_that_cannot_be_cut_is_shown_whole_with_the_reason() -> None:
    report = partition(jobs.make(Branching), 2)
    assert report.sound
    assert [part.units for part in report.parts] == [("the whole model",) * 2] * 2
    assert "commands/test_partition.py" in shown(report)
    with pytest.raises(UsageError, match=r"test_partition\.py"):
        partition(jobs.make(Branching), 2, 2)
