"""Gradients are summed in shared memory: any part by anybody, and what the script keeps is never written again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from script_runs import run
from unisono.gradients.tree import Node, expression
from unisono.scripts.pytorch import rows as rows_of
from unisono.scripts.pytorch.numerics import Numerics
from unisono.scripts.pytorch.rows import Rows
from unisono.scripts.pytorch.spaces import Space
from unisono.scripts.pytorch.values import added
from unisono.scripts.tree_sums import summed


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_parts_of_the_sum_are_the_sum(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_of, "BLOCK_BYTES", 128)
    shapes: list[tuple[int, ...]] = [(50,), (7, 3), (), (0, 2), (40,)]
    dtypes = [torch.float32, torch.float32, torch.float64, torch.float32, torch.bfloat16]
    parameters = [torch.randn(shape).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    parameters.append(torch.randn(4, 6).t())
    layout, count = Rows(parameters, [True] * 5 + [False]), 5
    source, into = Space.create(1, count * layout.size), Space.create(2, layout.size)
    used = [bytes([1, row != 0, row in (1, 3), 1, row == 2, 0]) for row in range(count)]
    for row in range(count):
        for view in layout.views(source, used[row], row):
            if view is not None:
                view.copy_(torch.randn(view.shape))
    tree = expression(count, {Node(0, row): row for row in range(count)})
    for part in range(parts):
        layout.add(source, into, tree, used, part, parts)
    found = layout.views(into, bytes(map(any, zip(*used, strict=True))))
    each = [layout.views(source, used[row], row) for row in range(count)]
    numerics = Numerics.here()
    copies = [[None if view is None else view.clone() for view in row] for row in each]
    wanted = summed(copies, lambda left, right: added(numerics, left, right))
    assert found[5] is None
    for one, other in zip(found[:5], wanted[:5], strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


KEEPING = """
import gc, hashlib, os, sys, torch, unisono
from torch import nn
from unisono.scripts.pytorch import sums
sums.SMALL_BYTES = 0
torch.manual_seed(0)
model = unisono.parallel(nn.Linear(20, 20), microbatches=4, workers=int(sys.argv[1]))
x, kept, places = torch.randn(12, 20), [], set()
for step in range(6):
    model.zero_grad()
    model(x * step).square().mean().backward()
    kept.append(model.weight.grad)
for step in range(4):
    model(x).sum().backward()  # adds to what is kept
digest = hashlib.sha256(b"".join(each.numpy().tobytes() for each in [*kept, model.weight.grad]))
print(digest.hexdigest())
kept.clear()
for step in range(6):
    model.zero_grad()
    model(x).sum().backward()
    places.add(model.weight.grad.data_ptr())
    child = os.fork()
    if not child:
        model.weight.grad.zero_()
        os._exit(0)
    os.waitpid(child, 0)
    assert model.weight.grad.any(), "a fork has its own"
assert model.weight.grad.untyped_storage().nbytes() == 1600
print(f"places {len(places)}", file=sys.stderr)
"""


def test_gradients_that_the_script_keeps_stay_and_others_are_written_again(tmp_path: Path) -> None:
    alone = run(KEEPING, tmp_path, 0).splitlines()[0]
    shared, places = run(KEEPING, tmp_path, 2).splitlines()
    assert shared == alone
    assert places == "places 1"


FLUSHED = """
import hashlib, sys, torch, unisono
torch.set_flush_denormal(True)
weight = torch.nn.Parameter(torch.ones(8))
@unisono.parallel(microbatches=8, workers=int(sys.argv[1]))
def call(x):
    return x * weight
call(torch.tensor([2.1e-38, -1.2e-38] * 4)[:, None].expand(8, 8).contiguous()).sum().backward()
torch.set_flush_denormal(False)
print(weight.grad.tolist())
"""


@pytest.mark.thorough
def test_sums_are_formed_with_the_settings_of_the_call(tmp_path: Path) -> None:
    alone = run(FLUSHED, tmp_path, 0)
    assert alone == f"{[0.0] * 8}\n"
    assert run(FLUSHED, tmp_path, 1) == alone
