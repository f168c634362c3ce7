"""Inputs go to a GPU by a stream of their own, in the order that keeps their memory whole: on a stand-in for CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from unisono.frameworks.pytorch import devices
from unisono.frameworks.pytorch.inputs import Beside, bringer


class Stream:
    """Notes who waits for it."""

    def __init__(self, done: list[Any], name: str) -> None:
        self._done, self.name = done, name

    def wait_stream(self, other: Stream) -> None:
        """Note it."""
        self._done.append(f"{self.name} waits for {other.name}")


def test_a_copy_is_waited_for_by_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    computing = Stream(done, "computing")

    @contextmanager
    def stream(used: Stream) -> Iterator[None]:
        done.append(f"on {used.name}")
        yield
        done.append("back")

    def pinned(values: Any) -> Any:
        done.append("pinned")
        return values.clone()

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(done, "copying"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda values, used: done.append(f"kept for {used.name}"))
    beside = Beside(torch.device("cpu"))
    values = torch.arange(3.0)
    inputs, (number, found) = devices.moved(({"a": values}, [1, values]), torch.device("meta"), beside)
    assert number == 1
    assert torch.equal(inputs["a"], values)
    assert torch.equal(found, values)
    assert done == ["on copying", "pinned", "back", "computing waits for copying", "kept for computing"] * 2


def test_on_a_cpu_a_batch_is_itself() -> None:
    batch = (torch.ones(1), 2)
    assert bringer(devices.CPU)(batch) is batch
