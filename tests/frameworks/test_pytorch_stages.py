"""PyTorch models cut into stages: for every cut the bits of the uncut model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed in this environment", allow_module_level=True)

import torch
from torch import nn
from torch.nn import functional as F

from unisono.errors import JobError, SpoiledError, UsageError
from unisono.frameworks.protocol import Crossing
from unisono.frameworks.pytorch.model import Adapter
from unisono.job import Job
from unisono.memory.crossing import read, write

ROOM = 1 << 20


def adapter(model: Callable[[], nn.Module], batch: Any, loss: Any = F.cross_entropy, **fields: Any) -> Adapter:
    torch.manual_seed(0)
    fields = {"optimizer": lambda m: torch.optim.SGD(m.parameters(), 0.1), **fields}
    job = Job(model=model, loss=loss, data=[0], batch_size=8, steps=1, **fields)
    return Adapter(job, job.model(), 1, lambda: batch)


def through(what: Crossing) -> Crossing:
    memory = np.zeros(ROOM + 64, np.uint8)
    start = -memory.ctypes.data % 64
    area = memory[start : start + ROOM]
    write(what.arrays, what.plain, area)
    return Crossing(*read(area))


class Compared:
    """Gradients, loss, `used` and buffers of one microbatch, computed whole and in stages."""

    def __init__(self, made: Adapter) -> None:
        self.made = made
        spec = made.describe()
        self.arrays = {
            n: np.full(spec.parameters[n].shape, 7, spec.parameters[n].dtype)
            for n, owner in enumerate(spec.owners)
            if owner is not None
        }
        self.into = made.gradient_buffers(self.arrays)
        self.base = self.buffers()

    def buffers(self) -> list[Any]:
        return [np.array(live) for live in self.made.live_buffers()]

    def load(self, values: list[Any]) -> None:
        for live, value in zip(self.made.live_buffers(), values, strict=True):
            live[...] = value

    def result(self, measured: Any, used: Any) -> list[Any]:
        grads = [array.tobytes() for array in self.arrays.values()]
        return [measured.loss, measured.weight, measured.metrics, used.tolist(), grads]

    def whole(self, batch: Any, samples: int) -> list[Any]:
        self.load(self.base)
        self.made.seed(5)
        used = np.zeros(len(self.made._owners), np.uint8)
        measured = self.made.gradient(batch, samples, self.into, used)
        return [*self.result(measured, used), [b.tobytes() for b in self.buffers()]]

    def staged(self, batch: Any, samples: int, stages: list[Any]) -> list[Any]:
        received, kept, after = Crossing(), [], list(self.base)
        for stage in stages:
            self.load(self.base)
            self.made.seed(5)
            passed = stage.forward(batch, samples, received)
            live = self.buffers()
            for index in stage.buffers:
                after[index] = live[index]
            kept.append(passed)
            received = through(passed.sent)
        used = np.zeros(len(self.made._owners), np.uint8)
        received = Crossing()
        for stage, passed in zip(reversed(stages), reversed(kept), strict=True):
            self.load(self.base)
            received = through(stage.backward(passed.kept, received, self.into, used))
        assert received.arrays == ()
        return [*self.result(kept[-1].measured, used), [b.tobytes() for b in after]]


def all_cuts(units: int) -> Iterator[tuple[int, ...]]:
    for at in range(1, units):
        yield 0, at, units
    if units > 2:
        yield 0, units // 3 or 1, units * 2 // 3, units
    yield tuple(range(units + 1))


def check(made: Adapter, *batches: Any) -> int:
    """Compare for every cut, with and without recompute, on each (batch, samples); returns the number of units."""
    compared = Compared(made)
    state = torch.get_rng_state()
    units = made.units(*batches[0])
    assert torch.equal(state, torch.get_rng_state())
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(compared.base, compared.buffers(), strict=True))
    assert all(parameter.grad is None for parameter in made.model.parameters())
    assert sorted({n for unit in units for n in unit.parameters}) == list(range(len(made._owners)))
    expected = [compared.whole(*batch) for batch in batches]
    assert len(units) > 1
    for cuts in all_cuts(len(units)):
        for recompute in (False, True):
            stages = [made.stage(cuts, index, recompute) for index in range(len(cuts) - 1)]
            owned = sorted(n for stage in stages for n in stage.parameters)
            assert owned == sorted(compared.arrays)
            for batch, whole in zip(batches, expected, strict=True):
                for array in compared.arrays.values():
                    array[...] = 7
                assert compared.staged(*batch, stages) == whole, (cuts, recompute)
    return len(units)


def images(count: int = 4) -> Any:
    make = torch.Generator().manual_seed(count)
    return (torch.randn(count, 3, 8, 8, generator=make), torch.randint(3, (count,), generator=make)), count


def rows(count: int = 4, width: int = 6) -> Any:
    make = torch.Generator().manual_seed(count)
    return (torch.randn(count, width, generator=make), torch.randint(3, (count,), generator=make)), count


def tokens(count: int = 4, length: int = 5) -> Any:
    make = torch.Generator().manual_seed(count + length)
    text = torch.randint(7, (count, length + 1), generator=make)
    return (text[:, :-1].contiguous(), text[:, 1:].contiguous()), count


def nested() -> nn.Module:
    inner = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 8)))
    return nn.Sequential(inner, nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 3))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, padding=1), "norm": nn.BatchNorm2d(4)}) for _ in range(3)
        )
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        x = self.act(self.stem(x))
        for block in self.blocks:
            x = self.act(block["norm"](block["conv"](x)) + x)
        return self.head(x.mean((2, 3)))


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(7, 8), nn.Embedding(9, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in range(3))
        self.drop = nn.Dropout(0.2)

    def forward(self, text: Any) -> Any:
        batch, length = text.shape
        x = self.drop(self.words(text) + self.places(torch.arange(length)))
        for norm, qkv in zip(self.norms, self.qkv, strict=True):
            q, k, v = qkv(norm(x)).view(batch, length, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.dropout(mixed.transpose(1, 2).reshape(batch, length, 8), 0.1, self.training)
        return x @ self.words.weight.t()


def token_loss(outputs: Any, targets: Any) -> Any:
    return F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1)), targets.numel()


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 8)
        self.body = nn.Transformer(8, 2, 2, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 7)

    def forward(self, source: Any, target: Any) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        padding = source == 0
        return self.head(
            self.body(
                self.words(source), self.words(target), tgt_mask=mask, src_key_padding_mask=padding,
                memory_key_padding_mask=padding,
            )
        )  # fmt: skip


class Reader(nn.Module):
    def __init__(self, pack: bool) -> None:
        super().__init__()
        self.pack = pack
        self.words = nn.Embedding(7, 8)
        self.lstm = nn.LSTM(8, 6, num_layers=2, dropout=0.2, batch_first=True, bidirectional=True)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, text: Any, lengths: Any) -> Any:
        x: Any = self.words(text)
        if self.pack:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (hidden, _) = self.lstm(x)
        return self.head(self.norm(hidden[-1]))


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Linear(6, 6), nn.Linear(6, 6)
        self.rest = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.unused, self.frozen = nn.Linear(6, 6), nn.Linear(6, 6).requires_grad_(False)

    def forward(self, x: Any) -> Any:
        far = self.shared(self.first(x)).tanh()
        x = far
        for layer in self.rest:
            x = layer(x).relu()
            x = self.shared(x) * 0.5 + far * 1.7
        return self.frozen(x + far)[:, :3]


class Inner(nn.Module):
    """Reads a value, so that it stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Any) -> Any:
        return self.layer(x) if x.sum().item() > 0 else self.layer(-x)


class AtTheRoot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        if x.sum() > 0:
            x = -x
        return self.last(x)


class Written(nn.Module):
    """Fills a tensor piece by piece, scales without gradients, and counts in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.calls += 1
        x = self.first(x)
        with torch.no_grad():
            scale = x.abs().max()
        filled = torch.zeros(len(x), 8)
        filled[:, :4] = x[:, 4:]
        filled[:, 4:] = x[:, :4]
        return self.last(filled / scale)


def pairs(count: int = 4, length: int = 5) -> Any:
    (source, target), _ = tokens(count, length)
    return ((source, target), target), count


def texts(count: int = 4, length: int = 5) -> Any:
    (text, _), _ = tokens(count, length)
    lengths = torch.randint(1, length + 1, (count,), generator=torch.Generator().manual_seed(count))
    return ((text, lengths), torch.arange(count) % 3), count


precisions = pytest.mark.parametrize("precision", ["float32", "bfloat16"])


@precisions
def test_nested_sequential(precision: str) -> None:
    assert check(adapter(nested, rows()[0], precision=precision), rows(4), rows(4), rows(3)) >= 4


@precisions
def test_residual_convolutions_with_batchnorm_and_relu_in_place(precision: str) -> None:
    assert check(adapter(Residual, images()[0], precision=precision), images(4), images(2)) >= 4


@precisions
def test_tied_gpt_with_dropout(precision: str) -> None:
    made = adapter(Gpt, tokens()[0], token_loss, precision=precision)
    assert check(made, tokens(4), tokens(3), tokens(4, 7)) >= 4


@precisions
def test_encoder_and_decoder(precision: str) -> None:
    made = adapter(Translator, pairs()[0], token_loss, precision=precision)
    assert check(made, pairs(4), pairs(3, 6)) >= 5


@precisions
@pytest.mark.parametrize("pack", [False, True])
def test_lstm(pack: bool, precision: str) -> None:
    if precision == "bfloat16" and not pack:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            try:
                nn.LSTM(8, 6, batch_first=True)(torch.ones(2, 3, 8))
            except RuntimeError as error:
                pytest.skip(f"PyTorch itself has no bfloat16 LSTM for this processor: {error}")
    made = adapter(lambda: Reader(pack), texts()[0], precision=precision)
    assert check(made, texts(4), texts(3, 6)) >= 3


def test_skips_shared_frozen_and_unused_parameters() -> None:
    made = adapter(Skips, rows()[0])
    assert check(made, rows(4), rows(3)) >= 8
    assert check(adapter(Skips, rows()[0], precision="bfloat16"), rows(4), rows(3)) >= 2


def test_tensors_written_in_place_stay_in_one_stage() -> None:
    assert check(adapter(Written, rows()[0]), rows(4), rows(3)) >= 2


def test_a_module_that_reads_a_value_stays_whole() -> None:
    made = adapter(lambda: nn.Sequential(nn.Linear(6, 8), Inner(), nn.Dropout(0.2), nn.Linear(8, 3)), rows()[0])
    negative = (-rows()[0][0], rows()[0][1]), 4
    assert check(made, rows(4), negative, rows(3)) == 3


def test_own_stages_pass_nests_of_tensors_and_plain_values() -> None:
    def first(model: Any, x: Any) -> Any:
        return model[0](x), {"times": 2, "kept": [x]}

    def second(model: Any, value: Any) -> Any:
        x, rest = value
        return model[1](x) * rest["times"], rest["kept"][0].sum()

    def third(model: Any, value: Any) -> Any:
        return model[3](model[2](value[0])) + value[1]

    made = adapter(nested, rows()[0], stages=[first, second, third])
    assert check(made, rows(4), rows(3)) == 3


def test_a_stage_looks_at_its_own_parameters_alone() -> None:
    """Others' may change beside it: the last stage updates while the first one computes again."""
    changed: list[int] = []

    def first(model: Any, x: Any) -> Any:
        for layer in changed:
            next(model[layer].parameters()).data.mul_(0.5)
        return model[1](model[0](x))

    made = adapter(nested, rows()[0], stages=[first, lambda model, x: model[3](model[2](x))])
    made.units(*rows())
    stage = made.stage((0, 1, 2), 0, False)
    changed[:] = [3]
    stage.forward(*rows(), Crossing())
    changed[:] = [0]
    with pytest.raises(SpoiledError, match=r"'0\.0\.weight'"):
        stage.forward(*rows(), Crossing())


def test_own_stages_name_what_cannot_cross() -> None:
    made = adapter(nested, rows()[0], stages=[lambda model, x: (x, {1, 2}), lambda model, value: model(value[0])])
    with pytest.raises(JobError, match="received set"):
        made.units(*rows())


def test_own_stages_may_not_write_what_they_receive() -> None:
    made = adapter(nested, rows()[0], stages=[lambda m, x: m[0](x), lambda m, x: m[3](x.relu_())])
    with pytest.raises(UsageError, match=r"stages\[1\] does"):
        made.units(*rows())


def test_split_points_are_the_only_places() -> None:
    made = adapter(Skips, rows()[0], split_points=["rest.1", "rest.3"])
    assert check(made, rows()) == 3
    assert [unit.name for unit in made.units(*rows())][1:] == ["rest.1", "rest.3"]


@pytest.mark.parametrize(
    ("point", "text"), [("rest.9", "has no 'rest.9'"), ("unused", "'unused' has none in the forward pass")]
)
def test_split_points_that_are_none_are_refused(point: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        adapter(Skips, rows()[0], split_points=[point]).units(*rows())


def test_a_model_that_reads_a_value_is_refused_with_its_line() -> None:
    with pytest.raises(UsageError, match=r"test_pytorch_stages.py:\d+ \(__bool__\).*Job\(stages="):
        adapter(AtTheRoot, rows()[0]).units(*rows())


class Tripled(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Any) -> Any:
        return x * 2

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        return gradient * 3


class Own(nn.Module):
    def forward(self, x: Any) -> Any:
        return Tripled.apply(x)


def test_an_autograd_function_stays_inside_its_module() -> None:
    assert check(adapter(lambda: nn.Sequential(nn.Linear(6, 8), Own(), nn.Linear(8, 3)), rows()[0]), rows(4)) == 2
    made = adapter(lambda: nn.Linear(6, 3), rows()[0], forward=lambda model, x: Tripled.apply(model(x)) + 1)
    with pytest.raises(UsageError, match=r"it does at .*\(a torch.autograd.Function\)"):
        made.units(*rows())


def test_a_single_operation_is_refused() -> None:
    with pytest.raises(UsageError, match="can't be cut anywhere"):
        adapter(lambda: nn.Linear(6, 3), rows()[0]).units(*rows())


def test_the_generator_travels_only_where_it_has_moved() -> None:
    made = adapter(lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3)), rows()[0])
    units = made.units(*rows())
    counts = {}
    for at in range(1, len(units)):
        sent = made.stage((0, at, len(units)), 0, False).forward(*rows(), Crossing()).sent
        counts[units[at].name] = sum(array is not None and array.dtype == np.uint8 for array in sent.arrays)
    assert counts == {"1": 0, "3": 1}


def test_microbatches_may_overlap() -> None:
    made = adapter(Residual, images()[0])
    compared = Compared(made)
    units = len(made.units(*images()))
    stages = [made.stage((0, units // 2, units), index, False) for index in range(2)]
    whole = [compared.whole(*images(count))[4] for count in (4, 3)]
    flying = []
    for count in (4, 3):
        compared.load(compared.base)
        made.seed(5)
        first = stages[0].forward(*images(count), Crossing())
        last = stages[1].forward(*images(count), through(first.sent))
        flying.append((first, last))
    used = np.zeros(len(made._owners), np.uint8)
    for (first, last), expected in zip(flying, whole, strict=True):
        sent = through(stages[1].backward(last.kept, Crossing(), compared.into, used))
        stages[0].backward(first.kept, sent, compared.into, used)
        assert [array.tobytes() for array in compared.arrays.values()] == expected


def test_units_are_measured() -> None:
    units = adapter(Residual, images()[0]).units(*images())
    assert all(unit.forward_seconds > 0 and unit.backward_seconds > 0 and unit.activation_bytes > 0 for unit in units)
    assert units[0].crossing_bytes == 4 * 4 * 8 * 8 * 4
    assert sorted(index for unit in units for index in unit.buffers) == list(range(9))
