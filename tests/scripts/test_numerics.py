"""Settings of PyTorch travel with a call, and stay no longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch.backends import cuda, mha, mkldnn
from torch.nn.functional import scaled_dot_product_attention

from unisono.scripts.pytorch.numerics import Numerics


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    before = Numerics.here()
    yield
    before._set()


def tiny() -> float:
    """What is left of a denormal number."""
    return float(torch.full((64,), 1e-30).mul(1e-10)[0])


def attention() -> str:
    """Which kernel computes it."""
    queries = torch.ones(1, 2, 8, 16, requires_grad=True)
    return str(scaled_dot_product_attention(queries, queries, queries).grad_fn)[:30]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda: torch.set_flush_denormal(True), tiny),
        (lambda: setattr(mkldnn, "enabled", False), lambda: mkldnn.enabled),
        (lambda: cuda.enable_flash_sdp(False), attention),
        (lambda: mha.set_fastpath_enabled(False), mha.get_fastpath_enabled),
        (lambda: setattr(mkldnn.conv, "fp32_precision", "bf16"), lambda: mkldnn.conv.fp32_precision),
        (lambda: setattr(mkldnn.matmul, "fp32_precision", "bf16"), lambda: mkldnn.matmul.fp32_precision),
        (lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision),
        (lambda: torch.set_default_dtype(torch.float64), lambda: torch.ones(1).dtype),
        (lambda: torch.use_deterministic_algorithms(True, warn_only=True), torch.are_deterministic_algorithms_enabled),
    ],
    ids=[
        "denormals",
        "mkldnn",
        "attention",
        "fast path",
        "conv",
        "matmul",
        "matmul as it was",
        "dtype",
        "deterministic",
    ],
)
def test_a_worker_computes_as_the_script_is_set(change: Callable[[], object], shown: Callable[[], object]) -> None:
    ours, before = shown(), Numerics.here()
    change()
    its, there = shown(), Numerics.here()
    before._set()
    assert its != ours
    with there.hold():
        assert shown() == its
    assert (shown(), Numerics.here()) == (ours, before)
