"""JAX models cut into stages give the uncut bits: every cut, microbatches in flight, any sizes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("jax") is None or importlib.util.find_spec("flax") is None:
    pytest.skip("jax is not installed in this environment", allow_module_level=True)

from frameworks.kits import jax as kit  # noqa: I001  first: it holds XLA's threads

import jax
import jax.numpy as jnp
from flax import linen, nnx

from frameworks.kits.samples import CLASSES, FEATURES, arrays
from unisono import Job
from unisono.errors import JobError, UsageError
from unisono.frameworks.arrays import aligned_copy
from unisono.frameworks.jax.model import Adapter
from unisono.frameworks.protocol import Crossing, Passed
from unisono.memory.crossing import read, write
from unisono.partition.stages import schedule

SIZES = (8, 8, 3)
"""Samples of the microbatches: the last one is short."""

ENTRY = 1 << 18


class Machine:
    """A job's microbatches, computed whole and in stages, in one process."""

    def __init__(self, job: Job, sizes: tuple[int, ...] = SIZES) -> None:
        inputs, targets = arrays()
        ends = np.cumsum(sizes)
        self.batches = [(inputs[e - n : e], targets[e - n : e]) for e, n in zip(ends, sizes, strict=True)]
        self.adapter = Adapter(job, job.model(), 6, lambda: self.batches[0])
        self.shapes = [spec.shape for spec in self.adapter.describe().parameters]
        values = [np.zeros(shape, np.float32) for shape in self.shapes]
        base = [live.copy() for live in self.adapter.live_buffers()]
        self.adapter.initial(values)
        self.adapter.bind([aligned_copy(value) for value in values])
        self.base = base

    def load(self) -> None:
        for live, value in zip(self.adapter.live_buffers(), self.base, strict=True):
            live[...] = value

    def start(self, microbatch: int) -> None:
        self.load()
        self.adapter.seed(100 + microbatch)

    def destination(self) -> tuple[list[Any], Any]:
        return [np.full(shape, 7, np.float32) for shape in self.shapes], np.zeros(len(self.shapes), np.uint8)

    def buffers(self) -> list[Any]:
        return [live.copy() for live in self.adapter.live_buffers()]

    def whole(self) -> list[Any]:
        found = []
        for microbatch, batch in enumerate(self.batches):
            self.start(microbatch)
            into, used = self.destination()
            measured = self.adapter.gradient(batch, SIZES[microbatch], into, used)
            found.append(_bits(measured, into, used, self.buffers()))
        return found

    def staged(self, cuts: tuple[int, ...], recompute: bool = False) -> list[Any]:
        """As the stages of a pipe do it, each with its own order of passes (1F1B)."""
        stages = [self.adapter.stage(cuts, index, recompute) for index in range(len(cuts) - 1)]
        owned = sorted(number for stage in stages for number in stage.parameters)
        assert owned == list(range(len(self.shapes)))
        orders = [list(schedule(index, len(stages), len(self.batches))) for index in range(len(stages))]
        there: dict[Any, Any] = {}
        kept: dict[Any, Passed] = {}
        buffers = [list(self.base) for _ in self.batches]
        into = [self.destination() for _ in self.batches]
        while any(orders):
            for index, order in enumerate(orders):
                if order and self._ready(there, index, len(stages), *order[0]):
                    do, microbatch = order.pop(0)
                    self.start(microbatch)
                    if do == "forward":
                        received = there.get(("forward", index - 1, microbatch), Crossing())
                        passed = stages[index].forward(self.batches[microbatch], SIZES[microbatch], received)
                        there["forward", index, microbatch] = _through(passed.sent)
                        kept[index, microbatch] = passed
                        for at in stages[index].buffers:
                            buffers[microbatch][at] = self.adapter.live_buffers()[at].copy()
                    else:
                        received = there.get(("backward", index + 1, microbatch), Crossing())
                        sent = stages[index].backward(kept[index, microbatch].kept, received, *into[microbatch])
                        there["backward", index, microbatch] = _through(sent)
        last = len(stages) - 1
        return [_bits(kept[last, m].measured, *into[m], buffers[m]) for m in range(len(self.batches))]

    @staticmethod
    def _ready(there: dict[Any, Any], index: int, stages: int, do: str, microbatch: int) -> bool:
        if do == "forward":
            return index == 0 or ("forward", index - 1, microbatch) in there
        return index == stages - 1 or ("backward", index + 1, microbatch) in there


def _through(what: Crossing) -> Crossing:
    memory = aligned_copy(np.zeros(ENTRY, np.uint8))
    write(what.arrays, what.plain, memory)
    return Crossing(*read(memory))


def _bits(measured: Any, into: list[Any], used: Any, buffers: list[Any]) -> Any:
    return measured, [array.tobytes() for array in into], used.tolist(), [array.tobytes() for array in buffers]


def make(model: Callable[[], Any], **changes: Any) -> Job:
    return kit.make(model, metrics={"accuracy": kit.accuracy}, **changes)


# -- models ------------------------------------------------------------------------------------------------


def wild() -> Any:
    """Nested chains, batch normalization, dropout, a layer without parameters first."""
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        lambda inputs: inputs * 2,
        nnx.Linear(FEATURES, 33, rngs=rngs),
        nnx.Sequential(nnx.BatchNorm(33, rngs=rngs), nnx.gelu, nnx.Dropout(0.2, rngs=rngs)),
        nnx.Linear(33, 33, rngs=rngs), nnx.tanh, nnx.Dropout(0.2, rngs=rngs),
        nnx.Linear(33, CLASSES, rngs=rngs),
    )  # fmt: skip


def listed() -> Any:
    rngs = nnx.Rngs(0)
    return [nnx.Linear(FEATURES, 16, rngs=rngs), nnx.relu, nnx.Linear(16, CLASSES, rngs=rngs)]


def tied() -> Any:
    """A layer, and a batch normalization, used three times."""
    rngs = nnx.Rngs(0)
    layer, norm = nnx.Linear(17, 17, rngs=rngs), nnx.BatchNorm(17, rngs=rngs)
    ends = nnx.Linear(FEATURES, 17, rngs=rngs), nnx.Linear(17, CLASSES, rngs=rngs)
    return nnx.Sequential(ends[0], layer, nnx.tanh, norm, layer, norm, nnx.tanh, layer, nnx.tanh, norm, ends[1])


class Skipping(nnx.Module):
    """A skip connection over two cuts, one stream of random numbers for all of it, a value left for later."""

    def __init__(self) -> None:
        self.rngs = nnx.Rngs(0)
        self.first = nnx.Linear(FEATURES, 24, rngs=self.rngs)
        self.middle = nnx.Linear(24, 24, use_bias=False, rngs=self.rngs)
        self.last = nnx.Linear(24, CLASSES, rngs=self.rngs)
        self.scale = nnx.Param(jnp.full(24, 1.25))
        self.unused = nnx.Param(jnp.ones(3))
        self.left = nnx.Variable(jnp.zeros(24))

    def noise(self, value: Any) -> Any:
        return value * jax.random.bernoulli(self.rngs.params(), 0.8, value.shape) / 0.8


def enter(model: Skipping, inputs: Any) -> Any:
    hidden = model.noise(model.first(inputs))
    model.left[...] = jnp.tanh(hidden).mean(0)
    return hidden, (hidden > 0, {"scale": 3})


def middle(model: Skipping, value: Any) -> Any:
    hidden, (positive, rest) = value
    through = model.noise(jnp.tanh(model.middle(model.middle(hidden)))) * model.scale
    return through, hidden, positive, rest["scale"]


def scaled(model: Skipping, value: Any) -> Any:
    through, hidden, positive, scale = value
    return jnp.where(positive, through + hidden * scale, model.middle(through) * model.scale)


def leave(model: Skipping, value: Any) -> Any:
    return model.last(model.noise(value) * model.scale + model.left[...])


PIECES = [enter, middle, scaled, leave]


def variables() -> Any:
    keys = jax.random.split(jax.random.key(0))
    return {
        "params": {
            "first": jax.random.normal(keys[0], (FEATURES, 9)),
            "last": jax.random.normal(keys[1], (9, CLASSES)),
        },
        "statistics": {"mean": jnp.zeros(9), "calls": jnp.int32(0)},
    }


def project(variables: Any, inputs: Any, key: Any, training: bool) -> Any:
    hidden, seen = inputs @ variables["params"]["first"], variables["statistics"]
    if training:
        hidden = hidden * jax.random.bernoulli(key, 0.8, hidden.shape)
    return hidden, {"statistics": {"mean": 0.9 * seen["mean"] + 0.1 * hidden.mean(0), "calls": seen["calls"] + 1}}


def classify(variables: Any, value: Any, key: Any, training: bool) -> Any:
    return jnp.tanh(value - variables["statistics"]["mean"]) @ variables["params"]["last"]


class Linen(linen.Module):
    """Two layers that are called by name."""

    def setup(self) -> None:
        self.first, self.last = linen.Dense(9), linen.Dense(CLASSES)

    def __call__(self, inputs: Any) -> Any:
        return self.last(linen.relu(self.first(inputs)))


MODULE = Linen()
LINEN = [
    lambda variables, value, key, training: MODULE.apply(variables, value, method=lambda m, x: linen.relu(m.first(x))),
    lambda variables, value, key, training: MODULE.apply(variables, value, method=lambda m, x: m.last(x)),
]

JOBS: dict[str, Callable[[], Job]] = {
    "sequential": lambda: make(wild),
    "list": lambda: make(listed),
    "tied": lambda: make(tied),
    "pieces": lambda: make(Skipping, stages=PIECES, loss=kit.weighted_loss),
    "bfloat16": lambda: make(Skipping, stages=PIECES, precision="bfloat16"),
    "variables": lambda: make(variables, stages=[project, classify]),
    "linen": lambda: make(lambda: MODULE, stages=LINEN),
}


@pytest.mark.few("sequential", "pieces")
@pytest.mark.parametrize("name", JOBS)
def test_every_cut_gives_the_uncut_bits(name: str) -> None:
    machine = Machine(JOBS[name](), SIZES if name in ("sequential", "tied", "pieces") else SIZES[:2])
    units = machine.adapter.units(machine.batches[0], SIZES[0])
    assert not any(unit.joined for unit in units)
    whole = machine.whole()
    assert len({str(bits) for bits in whole}) == len(machine.batches)
    inner = range(1, len(units))
    every = [(0, *places, len(units)) for count in range(len(units)) for places in combinations(inner, count)]
    for cuts in every:
        assert machine.staged(cuts) == whole, cuts
        assert machine.staged(cuts, recompute=True) == whole, cuts


def test_pieces_compute_what_the_whole_model_computes() -> None:
    """But for the last bits: XLA rounds otherwise where it fuses."""
    wrapped = type("Wrapped", (nnx.Module,), {
        "__init__": lambda self: setattr(self, "inner", wild()), "__call__": lambda self, inputs: self.inner(inputs)
    })  # fmt: skip
    cut, whole = (Machine(make(model), SIZES[:1]).whole()[0] for model in (wild, wrapped))
    assert cut[0].loss == pytest.approx(whole[0].loss, rel=1e-6)
    for ours, theirs in zip(cut[1], whole[1], strict=True):
        assert np.allclose(np.frombuffer(ours, "f4"), np.frombuffer(theirs, "f4"), rtol=1e-4, atol=1e-5)


def test_evaluation_runs_all_pieces() -> None:
    for name in ("list", "variables"):
        machine = Machine(JOBS[name](), SIZES[:1])
        measured = machine.adapter.evaluate(machine.batches[0], SIZES[0], True)
        assert measured.outputs[0].shape == (SIZES[0], CLASSES)


def test_units_say_what_they_use_and_what_would_cross() -> None:
    machine = Machine(JOBS["tied"]())
    names = [spec.name for spec in machine.adapter.describe().parameters]
    units = machine.adapter.units(machine.batches[0], SIZES[0])
    assert [unit.name for unit in units][:3] == ["layers.0", "layers.1", "layers.4"]
    assert [names[n] for n in units[0].parameters] == ["layers.0.bias", "layers.0.kernel"]
    assert "layers.1.kernel" in {names[n] for n in units[1].parameters}
    assert units[1].parameters == units[2].parameters == units[3].parameters
    assert units[0].crossing_bytes == 8 * 17 * 4
    assert units[1].crossing_bytes == 8 * 17 * 4 + 2 * 17 * 4, "the statistics travel to where they are changed again"
    assert units[1].buffers == (0, 1)
    for unit in units:
        assert min(unit.forward_seconds, unit.backward_seconds) > 0 or unit is units[-1]
        assert unit.activation_bytes > 0
    for stages in ((0, 2, len(units)), (0, 1, 3, len(units))):
        owned = [machine.adapter.stage(stages, index, False) for index in range(len(stages) - 1)]
        assert [bool(stage.buffers) for stage in owned] == [*[False] * (len(owned) - 1), True], (
            "of the last one that changes it"
        )


def test_no_parameter_is_copied_for_the_backward_pass() -> None:
    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(FEATURES, 999, rngs=rngs), nnx.relu, nnx.Linear(999, CLASSES, rngs=rngs)]
    machine = Machine(make(lambda: layers))
    unit = machine.adapter.units(machine.batches[0], SIZES[0])[0]
    assert unit.activation_bytes <= 3 * SIZES[0] * (999 + FEATURES) * 4 < FEATURES * 999 * 4 * 2


def test_a_received_array_is_computed_on_in_place() -> None:
    machine = Machine(JOBS["list"]())
    machine.start(0)
    first, last = (machine.adapter.stage((0, 1, 2), index, True) for index in range(2))
    passed = first.forward(machine.batches[0], 8, Crossing())
    received = _through(passed.sent)
    before = [array.copy() for array in received.arrays]
    into, used = machine.destination()
    last.backward(last.forward(machine.batches[0], 8, received).kept, Crossing(), into, used)
    assert all(np.array_equal(a, b) for a, b in zip(before, received.arrays, strict=True))


WRAPPED = type("Own", (nnx.Sequential,), {"__call__": lambda self, inputs: self.layers[0](inputs)})


@pytest.mark.parametrize(("changes", "text"), [
    ({"model": "wild"}, "a Wild, whose order"),
    ({"model": lambda: WRAPPED(nnx.Linear(FEATURES, CLASSES, rngs=nnx.Rngs(0)))}, "a Own, whose order"),
    ({"model": lambda: nnx.Sequential(nnx.Linear(FEATURES, CLASSES, rngs=nnx.Rngs(0)))}, "fewer than two"),
    ({"model": wild, "forward": lambda model, inputs: model(inputs)}, "its own forward"),
    ({"model": Skipping, "stages": [lambda model, inputs: model.last(model.first(inputs))]}, "one stage"),
    ({"model": Linen}, r"\(variables, value, key, training\)"),
    ({"model": variables, "forward": lambda v, x, key, training: (x @ v["params"]["first"])}, "stages="),
])  # fmt: skip
def test_what_cannot_be_cut_is_refused_with_a_way_out(changes: dict[str, Any], text: str) -> None:
    machine = Machine(make(changes.pop("model"), **changes))
    for attempt in (
        lambda: machine.adapter.units(machine.batches[0], 8),
        lambda: machine.adapter.stage((0, 1), 0, False),
    ):
        with pytest.raises(UsageError, match=text) as refused:
            attempt()
        assert "pipeline=1" in str(refused.value)


def test_split_points_are_refused() -> None:
    with pytest.raises(UsageError, match=r"Write the forward pass as Job\(stages"):
        Machine(make(wild, split_points=["layers.1"]))


def _changing(model: Skipping, inputs: Any) -> Any:
    return model.first(inputs) * (model.scale if len(inputs) == 8 else 1.0)


@pytest.mark.parametrize(("stages", "text"), [
    ([lambda model, inputs: (model.first(inputs), "text"), lambda model, value: model.last(value[0])], "pass arrays"),
    ([_changing, lambda model, value: model.last(value)], "depend on a shape"),
])  # fmt: skip
def test_pieces_that_cannot_be_computed_are_named(stages: Any, text: str) -> None:
    with pytest.raises(JobError, match=text):
        Machine(make(Skipping, stages=stages)).whole()


def test_a_key_crosses_no_cut() -> None:
    pieces = [
        lambda model, inputs: (model.first(inputs), model.rngs.params()),
        lambda model, value: model.last(value[0] * jax.random.bernoulli(value[1], 0.8, value[0].shape)),
    ]
    machine = Machine(make(Skipping, stages=pieces), SIZES[:1])
    assert [unit.joined for unit in machine.adapter.units(machine.batches[0], 8)] == [True, False]
    assert machine.staged((0, 2)) == machine.whole()
