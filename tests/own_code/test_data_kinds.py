"""What people give as data: a sequence of samples, or told before the first step what it is instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch.utils.data import IterableDataset, TensorDataset

import jobs
from faults import run
from unisono.errors import UsageError

INPUTS, TARGETS = jobs.dataset().tensors


class Sized(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(INPUTS, TARGETS, strict=True))

    def __len__(self) -> int:
        return 96


class Ends:
    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> Any:
        if index >= 90:
            raise IndexError("no more")
        return INPUTS[index], TARGETS[index]


@pytest.mark.parametrize(("data", "text"), [
    (lambda: {"x": INPUTS, "y": TARGETS}, r"a dictionary with the keys 'x', 'y'. Write list\(zip\(x, y\)\)"),
    ((INPUTS, TARGETS), "two columns, each of 100"),
    ([INPUTS.numpy(), TARGETS.numpy()], "two columns, each of 100"),
    ("data.csv", "the text 'data.csv'. Write lambda: read_samples"),
    (Sized(), "for each index below its length of 96; sample 95 raised NotImplementedError"),
    (Ends(), "sample 95 raised IndexError: no more"),
    (INPUTS, r"sample 0 is Tensor of length 20. Pass collate=.* \(job.data\)"),
    (np.zeros((50, 3)), "sample 0 is ndarray of length 3"),
    (TensorDataset(INPUTS, INPUTS, TARGETS), "sample 0 is tuple of length 3"),
    ([{"x": x, "y": y} for x, y in zip(INPUTS, TARGETS, strict=True)], "sample 0 is dict of length 2"),
    (lambda: (pair for pair in zip(INPUTS, TARGETS, strict=True)), "must have len.* received generator"),
], ids=["dict", "pair", "list", "text", "stream", "ends", "tensor", "array", "three", "maps", "generator"])  # fmt: skip
def test_what_is_no_sequence_of_samples_is_told_before_the_first_step(data: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        run(jobs.make(data=data))


def test_two_samples_are_no_columns() -> None:
    pairs = [(INPUTS[0], TARGETS[0]), (INPUTS[1], TARGETS[1])]
    run(jobs.make(data=pairs, batch_size=2, microbatches=2, steps=1))
