"""`unisono.horovod.torch`: what a script written for Horovod finds, with one rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import unisono.horovod.torch as hvd
from unisono.errors import UsageError
from unisono.scripts.parallel import is_parallel


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would live as long as the models of this process."""
    monkeypatch.setenv("UNISONO_WORKERS", "0")


def test_there_is_one_rank() -> None:
    hvd.init()
    assert hvd.is_initialized()
    assert [hvd.rank(), hvd.local_rank(), hvd.cross_rank()] == [0, 0, 0]
    assert [hvd.size(), hvd.local_size(), hvd.cross_size()] == [1, 1, 1]
    hvd.barrier()
    hvd.shutdown()


def test_collectives_give_what_the_only_rank_has() -> None:
    ours = torch.arange(3.0, requires_grad=True)
    for found in (hvd.allreduce(ours, op=hvd.Sum), hvd.allreduce(ours, name="x", compression=hvd.Compression.fp16),
                  hvd.allgather(ours), hvd.broadcast(ours, root_rank=0)):  # fmt: skip
        assert torch.equal(found, ours)
        assert found.data_ptr() != ours.data_ptr()
    assert hvd.allreduce(ours, prescale_factor=0.5, postscale_factor=4.0).tolist() == [0.0, 2.0, 4.0]
    hvd.allreduce(ours).sum().backward()
    assert ours.grad is not None
    assert ours.grad.tolist() == [1.0, 1.0, 1.0]
    value = {"a": [1]}
    assert hvd.broadcast_object(value, root_rank=0) is value


def test_the_optimizer_stays_and_its_models_become_parallel() -> None:
    model, other = torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    given: dict[str, Any] = {"named_parameters": model.named_parameters(), "compression": hvd.Compression.none}
    assert hvd.DistributedOptimizer(optimizer, backward_passes_per_step=2, **given) is optimizer
    assert [is_parallel(each) for each in (model, model[0], other)] == [True, False, False]
    optimizer.synchronize()  # type: ignore[attr-defined]
    with optimizer.skip_synchronize():  # type: ignore[attr-defined]
        optimizer.step()


@pytest.mark.parametrize(("asked", "text"), [
    (lambda: hvd.SyncBatchNorm(8), r"received hvd\.SyncBatchNorm, .* Use nn\.BatchNorm1d"),
    (lambda: hvd.allreduce(torch.ones(1), op=hvd.Adasum), r"Adasum depends .* received op=hvd\.Adasum\. Use hvd\.Av"),
    (lambda: hvd.DistributedOptimizer(torch.optim.SGD([torch.zeros(1)]), op=hvd.Adasum), "Adasum depends"),
    (lambda: hvd.DistributedOptimizer(torch.optim.SGD([torch.zeros(1)])), "belong to no module. Make the model first"),
    (lambda: hvd.broadcast_parameters({}, root_rank=1), "one rank, 0; received root_rank=1. Write root_rank=0"),
], ids=["batch-norm", "allreduce", "optimizer", "no-module", "root"])  # fmt: skip
def test_what_one_rank_cannot_have_is_refused(asked: Callable[[], Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        asked()


def test_what_there_is_not_says_so() -> None:
    assert not hasattr(hvd, "elastic")
    with pytest.raises(AttributeError, match="has what a script with one rank needs"):
        hvd.alltoall  # noqa: B018
