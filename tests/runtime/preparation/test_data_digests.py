"""What hosts compare of their data."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import jobs
from unisono import Job
from unisono.frameworks.registry import framework
from unisono.runtime.loader.samples import RemoteData
from unisono.runtime.preparation import data_digests
from unisono.runtime.preparation.data_digests import set_digests
from unisono.runtime.preparation.open_data import open_data

FUNCTIONS = framework("pytorch").data


def digests(job: Job) -> dict[str, Any]:
    return set_digests(open_data(job, FUNCTIONS), job, FUNCTIONS)


def pairs(changed: int = -1) -> list[tuple[torch.Tensor, int]]:
    return [(torch.full((3,), float(n + (n == changed) / 2)), n % 5) for n in range(100)]


def test_of_a_small_set_every_sample_is_told_apart() -> None:
    found, other = (
        digests(jobs.make(data=pairs(changed), evaluation={"held": pairs(changed), "out": jobs.dataset(7)}))
        for changed in (-1, 41)
    )
    assert {name: (each["length"], len(each["samples"])) for name, each in found.items()} == {
        "the training data": (100, 100), "the evaluation data 'held'": (100, 100), "the evaluation data 'out'": (7, 7),
    }  # fmt: skip
    for name, of in found.items():
        differ = [index for index, digest in of["samples"].items() if other[name]["samples"][index] != digest]
        assert differ == (["41"] if len(of["samples"]) > 7 else [])


def test_of_a_large_set_some_are_looked_at_and_of_a_slow_one_few(monkeypatch: pytest.MonkeyPatch) -> None:
    large = digests(jobs.make(data=jobs.dataset(1000)))["the training data"]["samples"]
    assert len(large) == 256
    assert {"0", "999"} < large.keys()
    monkeypatch.setattr(data_digests, "MOST_SECONDS", -1.0)
    slow = digests(jobs.make(data=jobs.dataset(1000)))["the training data"]["samples"]
    assert slow == {index: large[index] for index in ("0", "333", "666", "999")}


def test_what_fails_or_lies_on_another_host_is_not_compared() -> None:
    class Broken(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(index) if index != 2 else 1 / 0

    class Remote(RemoteData):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Any:
            raise AssertionError

        def samples(self, indices: Any, key_of: Any) -> list[Any]:
            raise AssertionError

    found = digests(jobs.make(data=Broken(pairs()[:5]), evaluation=Remote))
    assert sorted(found["the training data"]["samples"]) == ["0", "1", "3", "4"]
    assert found["the evaluation data 'evaluation'"] == {"length": 5, "samples": {}}


def test_random_samples_are_the_same_in_each_process() -> None:
    class Noisy(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            inputs, target = super().__getitem__(index)
            return inputs + torch.randn(3), target

    assert digests(jobs.make(data=Noisy(pairs()))) == digests(jobs.make(data=Noisy(pairs())))
