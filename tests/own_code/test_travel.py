"""A job of a script or a notebook travels for what it holds, which is said before, and refused where it cannot be."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import jobs
import unisono
from everywhere import hold_to_one_hash
from unisono.errors import UsageError
from unisono.frameworks.registry import framework, views
from unisono.runtime.processes import source
from unisono.runtime.processes.parcel import Survey
from unisono.runtime.processes.source import packed

PICTURES = torch.rand(2000, 20)
LABELS = torch.arange(2000) % 5
BYTES = PICTURES.nbytes + LABELS.nbytes


def travelled(value: Any) -> tuple[Any, int]:
    """A value after its journey, and its bytes; the same as was counted before."""
    framework("pytorch")
    file = source.memory_file()
    try:
        parcel = packed({"value": value}, file)
        size = sum(length for _, length in parcel.places)
        counted = Survey(views()).size({"value": value})
        assert size <= counted <= size + len(parcel.skeleton)
        return parcel.open(file)["value"], size
    finally:
        os.close(file)


@pytest.mark.parametrize(("make", "most"), [
    (lambda: list(zip(PICTURES, LABELS, strict=True)), BYTES),
    (lambda: [PICTURES.view(-1)[start : start + 100] for start in range(20_000)], PICTURES.nbytes),
    (lambda: [picture.expand(1000, 20) for picture in PICTURES], PICTURES.nbytes),
    (lambda: PICTURES[5:8], 3 * 80),
    (lambda: PICTURES[::100], 20 * 80),
    (lambda: [nn.Parameter(PICTURES[0]), nn.Parameter(PICTURES[1], requires_grad=False)], 160),
    (lambda: [row.bfloat16() for row in PICTURES[:3]], 3 * 40 + 2 * 64),
    (lambda: [PICTURES.bfloat16()[0], PICTURES.to(torch.float8_e5m2)[0]], 40 + 20),
    (lambda: [picture.as_subclass(Picture) for picture in PICTURES], PICTURES.nbytes),
    (lambda: [PICTURES[:, :3], PICTURES.numpy()[:, 3:]], PICTURES.nbytes),
], ids=["pairs", "windows", "expanded", "slice", "steps", "parameters", "small", "bits", "class", "numpy"])  # fmt: skip
def test_tensors_travel_for_what_they_hold(make: Callable[[], Any], most: int) -> None:
    value = make()
    back, size = travelled(value)
    assert size <= most
    for here, there in zip(leaves(value), leaves(back), strict=True):
        assert (type(there), there.dtype, there.shape) == (type(here), here.dtype, here.shape)
        if isinstance(here, torch.Tensor):
            assert there.requires_grad == here.requires_grad
            assert torch.equal(there.detach().double(), here.detach().double())


class Picture(torch.Tensor):
    """What a library may hand out instead of a tensor."""


def leaves(value: Any) -> list[Any]:
    return [leaf for member in value for leaf in leaves(member)] if isinstance(value, list | tuple) else [value]


def test_two_views_are_two_views_afterwards() -> None:
    whole, part = travelled([PICTURES, PICTURES[3]])[0]
    whole[3] = 9
    assert part.tolist() == [9] * 20


def test_pairs_of_tensors_train_to_one_hash(tmp_path: Any) -> None:
    pairs = jobs.make(data=list(zip(*jobs.dataset().tensors, strict=True)), steps=6)
    tensors = jobs.make(data=jobs.dataset(), steps=6)
    assert hold_to_one_hash(pairs, tmp_path) == hold_to_one_hash(tensors, tmp_path)


def test_what_is_copied_is_said_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LARGE_BYTES", 1000)
    heard: list[str] = []
    job = jobs.make(data=list(zip(PICTURES, LABELS, strict=True)), evaluation=[(PICTURES[0].clone(), 0)] * 4)
    packed(job, None, heard.append)
    assert heard == ["copying the job to the processes that train it, once (data: 0 MB)"]
    monkeypatch.setattr(source, "free_memory", lambda: 2000)
    with pytest.raises(UsageError, match=r"copied .* received data: 0 MB.*, and 0 MB of memory are free\. Give a func"):
        unisono.train(job)


def test_arrays_of_numpy_in_pairs_cost_what_they_hold() -> None:
    table = np.zeros((3000, 50))
    assert travelled([(row, row[:7]) for row in table])[1] == table.nbytes


def test_what_cannot_travel_is_named() -> None:
    lock = threading.Lock()

    class Locked:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            with lock:
                return PICTURES[index], 0

    with pytest.raises(UsageError, match=r"received data, a Locked\.__getitem__, its lock: lock \(cannot pickle"):
        unisono.train(jobs.make(data=Locked()))
    with pytest.raises(UsageError, match=r"received loss, its lock: lock"):
        unisono.train(jobs.make(loss=lambda outputs, targets: lock))
