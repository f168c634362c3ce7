"""Calls with tensors on devices: the script computes them itself, and says so once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import unisono
from unisono.scripts.pytorch import devices
from unisono.scripts.pytorch.devices import Keyed, check_known, elsewhere
from unisono.scripts.pytorch.session import session
from unisono.scripts.said import say_once


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    yield
    session().close()


SAID = (
    "unisono: calls with tensors on cpu are computed in the script itself (workers=0); workers compute what is on the "
    "CPU.\n"
)


def test_tensors_on_devices_are_told_from_those_that_workers_can_have() -> None:
    with FakeTensorMode():
        tensors = [torch.empty(1, device=name) for name in ("cpu", "cuda:0", "cuda:0", "mps")]
    assert [str(device) for device in elsewhere([*tensors, None])] == ["cuda:0", "mps:0"]
    for device in ("cpu", "cuda:3", "mps"):
        check_known(torch.device(device))


def test_a_device_without_known_random_numbers_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(unisono.UsageError, match=r"on CUDA and MPS; received a tensor on meta\. Move it there"):
        unisono.parallel(model, workers=0)(torch.ones(4, 2, device="meta"))
    with pytest.raises(unisono.UsageError, match="received a tensor on meta"):
        unisono.parallel(model.to("meta"), workers=0)(torch.ones(4, 2))


def test_an_output_stays_where_the_call_is() -> None:
    with pytest.raises(unisono.UsageError, match=r"received one on meta\. Move it outside the call"):
        unisono.parallel(lambda x: x.to("meta"), workers=0)(torch.ones(16, 2))


def test_generators_of_devices_are_keyed_and_the_scripts_own_again() -> None:
    keyed, before = Keyed([torch.device("cpu")]), torch.get_rng_state()
    with keyed.hold():
        keyed.seed(7)
        drawn = torch.rand(3)
        keyed.seed(7)
        assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(torch.get_rng_state(), before)


def trained(model: Any, loss_of: Any = F.cross_entropy) -> list[torch.Tensor]:
    torch.manual_seed(3)
    x, y = torch.randn(20, 6), torch.randint(0, 3, (20,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        optimizer.step()
    return [*model.state_dict().values()]


@pytest.fixture
def cpu_as_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if workers could not have its tensors."""
    monkeypatch.setattr(devices, "_SHARED", "another")
    say_once.cache_clear()


def test_a_model_on_a_device_is_computed_in_the_script(
    cpu_as_a_device: None, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    alone = trained(unisono.parallel(copy.deepcopy(net), microbatches=4, workers=0))
    assert SAID not in capsys.readouterr().err, "somebody has chosen"
    model = unisono.parallel(net, microbatches=4, workers=2)
    found = trained(model)
    assert all(torch.equal(*pair) for pair in zip(found, alone, strict=True))
    model.resize(3)
    model(torch.ones(20, 6))
    assert not session().processes
    assert capsys.readouterr().err.count(SAID) == 1


def test_arguments_on_a_device_are_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    plain, model = (nn.Sequential(nn.Linear(6, 3)) for _ in range(2))
    model.load_state_dict(plain.state_dict())
    loss_of = unisono.parallel(F.cross_entropy, microbatches=4, workers=2)
    monkeypatch.setattr(devices, "_SHARED", "another")
    say_once.cache_clear()
    torch.testing.assert_close(trained(model, loss_of), trained(plain), rtol=1e-5, atol=1e-5)
    assert not session().processes
    assert capsys.readouterr().err.count(SAID) == 1
