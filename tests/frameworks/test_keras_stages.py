"""Keras models cut between their layers give the uncut bits: every cut, two microbatches in flight, any sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

keras = pytest.importorskip("keras")

import frameworks.kits.keras as kit  # noqa: E402
from frameworks.kits.samples import CLASSES, FEATURES, arrays  # noqa: E402
from unisono import Job  # noqa: E402
from unisono.errors import UsageError  # noqa: E402
from unisono.frameworks.keras.backends import BACKEND  # noqa: E402
from unisono.frameworks.keras.data import Data  # noqa: E402
from unisono.frameworks.keras.model import Adapter  # noqa: E402
from unisono.frameworks.protocol import Crossing, Measured, Unit  # noqa: E402
from unisono.memory.crossing import read, write  # noqa: E402
from unisono.partition.stages import schedule  # noqa: E402

if BACKEND.NAME != "TensorFlow":
    pytest.skip("only TensorFlow's models are cut", allow_module_level=True)

layers = keras.layers
SIZES = (8, 8, 3)
"""Samples of the microbatches: the last one is short."""


def adapter_of(job: Job) -> Adapter:
    Data().seed_model(job.seed)
    inputs, targets = arrays()
    return Adapter(job, job.model(), 6, lambda: (inputs[:1], targets[:1]))


@dataclass
class Bits:
    """What a microbatch gave."""

    measured: Any = None
    gradients: dict[int, bytes] = field(default_factory=dict)
    used: list[int] = field(default_factory=list)
    buffers: list[bytes] = field(default_factory=list)


class Machine:
    """A job's microbatches, computed whole and in stages."""

    def __init__(self, job: Job) -> None:
        self.adapter = adapter_of(job)
        self.description = self.adapter.describe()
        self.base = [live.copy() for live in self.adapter.live_buffers()]
        inputs, targets = arrays()
        ends = np.cumsum(SIZES)
        self.batches = [
            (inputs[end - size : end], targets[end - size : end]) for end, size in zip(ends, SIZES, strict=True)
        ]

    def start(self, microbatch: int) -> None:
        self.load(self.base)
        self.adapter.seed(100 + microbatch)

    def load(self, values: list[Any]) -> None:
        for live, value in zip(self.adapter.live_buffers(), values, strict=True):
            live[...] = value

    def arrays(self) -> dict[int, Any]:
        specs = enumerate(self.description.parameters)
        return {n: np.full(s.shape, 7, s.storage) for n, s in specs if self.description.owners[n] is not None}

    def bits(self, measured: Measured, gradients: dict[int, Any], used: Any, buffers: Any) -> Bits:
        return Bits(
            measured, {n: a.tobytes() for n, a in gradients.items()}, list(used), [b.tobytes() for b in buffers]
        )

    def whole(self) -> list[Bits]:
        found = []
        for microbatch, batch in enumerate(self.batches):
            self.start(microbatch)
            gradients, used = self.arrays(), np.zeros(len(self.description.parameters), np.uint8)
            into = self.adapter.gradient_buffers(gradients)
            measured = self.adapter.gradient(batch, SIZES[microbatch], into, used)
            found.append(self.bits(measured, gradients, used, self.adapter.live_buffers()))
        return found

    def cut(self, cuts: tuple[int, ...], recompute: bool = False) -> list[Bits]:
        """In 1F1B order, through memory, as the runtime does."""
        count = len(cuts) - 1
        stages = [self.adapter.stage(cuts, index, recompute) for index in range(count)]
        self.check_owners(stages)
        memory: dict[tuple[str, int, int], Any] = {}
        gradients = [self.arrays() for _ in SIZES]
        used = [np.zeros(len(self.description.parameters), np.uint8) for _ in SIZES]
        measured: list[Any] = [None] * len(SIZES)
        buffers: list[dict[int, Any]] = [{} for _ in SIZES]
        kept: dict[tuple[int, int], Any] = {}
        waiting = [list(schedule(index, count, len(SIZES))) for index in range(count)]
        while any(waiting):
            for index, passes in enumerate(waiting):
                if passes and self.ready(passes[0], index, count, memory):
                    do, m = passes.pop(0)
                    if do == "forward":
                        received = self.received(memory, "forward", index - 1, m)
                        self.start(m)
                        passed = stages[index].forward(self.batches[m], SIZES[m], received)
                        kept[index, m] = passed.kept
                        self.send(memory, "forward", index, m, passed.sent)
                        buffers[m].update({b: self.adapter.live_buffers()[b].copy() for b in stages[index].buffers})
                        measured[m] = passed.measured or measured[m]
                    else:
                        received = self.received(memory, "backward", index + 1, m)
                        self.load(self.base)
                        into = self.adapter.gradient_buffers(gradients[m])
                        sent = stages[index].backward(kept.pop((index, m)), received, into, used[m])
                        self.send(memory, "backward", index, m, sent)
        return [
            self.bits(measured[m], gradients[m], used[m], [buffers[m].get(b, base) for b, base in enumerate(self.base)])
            for m in range(len(SIZES))
        ]

    def check_owners(self, stages: list[Any]) -> None:
        trained = [n for n, owner in enumerate(self.description.owners) if owner is not None]
        assert sorted(n for stage in stages for n in stage.parameters) == trained
        held = [b for stage in stages for b in stage.buffers]
        assert len(held) == len(set(held))

    @staticmethod
    def ready(what: Any, index: int, count: int, memory: dict[Any, Any]) -> bool:
        do, m = what
        edge, neighbour = (0, index - 1) if do == "forward" else (count - 1, index + 1)
        return index == edge or (do, neighbour, m) in memory

    @staticmethod
    def send(memory: dict[Any, Any], way: str, index: int, m: int, what: Crossing) -> None:
        raw = np.zeros((1 << 18) + 64, np.uint8)
        memory[way, index, m] = raw[-raw.ctypes.data % 64 :][: 1 << 18]
        write(what.arrays, what.plain, memory[way, index, m])

    @staticmethod
    def received(memory: dict[Any, Any], way: str, index: int, m: int) -> Crossing:
        return Crossing(*read(memory[way, index, m])) if (way, index, m) in memory else Crossing()


def places(units: Any) -> list[int]:
    """The units before which the model may be cut."""
    return [number + 1 for number, unit in enumerate(units[:-1]) if not unit.joined]


def every_cut(job: Job) -> tuple[Unit, ...]:
    """Cut at all places at once, and in two in the middle, where the backward pass computes the forward one again."""
    machine = Machine(job)
    whole = machine.whole()
    units = machine.adapter.units(machine.batches[0], SIZES[0])
    found, end = places(units), len(units)
    assert found
    assert machine.cut((0, *found, end)) == whole
    assert machine.cut((0, found[len(found) // 2], end), recompute=True) == whole
    return units


def wild() -> Any:
    return keras.Sequential([
        keras.Input((FEATURES,)), layers.Dense(30, "tanh"), layers.BatchNormalization(), layers.Dropout(0.2),
        keras.Sequential([layers.Dense(40, "gelu"), layers.Dropout(0.3), layers.Dense(20, "swish")]),
        layers.LayerNormalization(), layers.Dense(CLASSES),
    ])  # fmt: skip


def images() -> Any:
    return keras.Sequential([
        keras.Input((FEATURES,)), layers.Reshape((4, 5, 1)), layers.Conv2D(8, 3, padding="same"),
        layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D(2), layers.Conv2D(6, 2, activation="elu"),
        layers.Flatten(), layers.Dense(CLASSES),
    ])  # fmt: skip


def skips() -> Any:
    """A skip connection past two layers, attention over it, a nested model, arithmetic between layers."""
    inputs = keras.Input((FEATURES,))
    first = layers.Dense(24, "relu")(inputs)
    second = layers.Dense(24, "tanh")(first)
    third = layers.Dropout(0.3)(layers.Dense(24, "relu")(second))
    joined = layers.Add()([first, third]) * 0.5
    rows = layers.Reshape((4, 6))(joined)
    mixed = layers.LayerNormalization()(rows + layers.MultiHeadAttention(2, 3, dropout=0.1)(rows, rows))
    inside = keras.Input((4, 6))
    nested = keras.Model(inside, layers.Concatenate()([inside, layers.Dense(5, "gelu")(inside)]))
    flat = layers.Flatten()(nested(mixed))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Concatenate()([flat, second])))


def tied() -> Any:
    """One layer used three times, twice in a row."""
    inputs = keras.Input((FEATURES,))
    shared, other = layers.Dense(FEATURES, "tanh"), layers.Dense(FEATURES, "relu")
    hidden = layers.Dropout(0.1)(shared(shared(inputs)))
    return keras.Model(inputs, layers.Dense(CLASSES)(shared(other(hidden))))


def loops() -> Any:
    return keras.Sequential([
        keras.Input((FEATURES,)), layers.Reshape((5, 4)), layers.GRU(7, name="loop"), layers.Dense(CLASSES)
    ])  # fmt: skip


def unrolled() -> Any:
    """Recurrent layers without a loop in their graph."""
    return keras.Sequential([
        keras.Input((FEATURES,)), layers.Reshape((5, 4)), layers.GRU(7, return_sequences=True, unroll=True),
        layers.LSTM(6, unroll=True), layers.Dense(CLASSES),
    ])  # fmt: skip


def apart() -> Any:
    """What a graph optimizer would fuse into other kernels, as layers that a cut parts."""
    return keras.Sequential([
        keras.Input((FEATURES,)), layers.Dense(32), layers.Activation("tanh"), layers.Dense(30),
        layers.Activation("gelu"), layers.Reshape((5, 6, 1)), layers.ZeroPadding2D(1),
        layers.Conv2D(8, 3, use_bias=False), layers.Activation("relu"), layers.Rescaling(0.3),
        layers.Conv2D(4, 3), layers.Rescaling(1 / 3, 0.1), layers.Activation("sigmoid"),
        layers.Flatten(), layers.Dense(CLASSES),
    ])  # fmt: skip


def masked() -> Any:
    """Masks travel with what they mask, and a layer that makes new values of them passes them on."""
    inputs = keras.Input((FEATURES,))
    words = layers.Embedding(3, 8, mask_zero=True)(keras.ops.cast(keras.ops.abs(inputs), "int32") % 3)
    hidden = layers.Dropout(0.2)(layers.Dense(8, "tanh")(words))
    mixed = layers.MultiHeadAttention(2, 4)(hidden, hidden)
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(hidden + mixed)))


def frozen() -> Any:
    """Layers that do not train, with statistics that do not move, between layers that do."""
    middle = [layers.Dense(16, "relu", trainable=False), layers.BatchNormalization(trainable=False)]
    return keras.Sequential([
        keras.Input((FEATURES,)), layers.Dense(16, "tanh"), *middle, layers.Dense(CLASSES)
    ])  # fmt: skip


def statistics() -> Any:
    """A layer with statistics used twice: the model is cut before or after both uses."""
    inputs = keras.Input((FEATURES,))
    shared = layers.BatchNormalization(name="shared")
    hidden = layers.Dense(FEATURES, "relu", name="between")(shared(layers.Dense(FEATURES, name="before")(inputs)))
    return keras.Model(inputs, layers.Dense(CLASSES, name="after")(shared(hidden)))


def several() -> Any:
    """Two outputs, one of which is made early."""
    inputs = keras.Input((FEATURES,))
    early = layers.Dense(CLASSES)(inputs)
    return keras.Model(inputs, {"early": early, "late": layers.Dense(CLASSES)(layers.Dense(9, "relu")(early))})


def of_both(targets: Any, outputs: Any) -> Any:
    return kit.loss(targets, outputs["late"]) + 0.3 * kit.loss(targets, outputs["early"])


MODELS: dict[str, Callable[[], Any]] = {
    "wild": wild, "images": images, "skips": skips, "tied": tied, "unrolled": unrolled, "frozen": frozen,
}  # fmt: skip


@pytest.mark.few("wild", "skips")
@pytest.mark.parametrize("name", MODELS)
def test_every_cut_gives_the_uncut_bits(name: str) -> None:
    every_cut(kit.make(MODELS[name], metrics={"accuracy": kit.accuracy}))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["wild", "images"])
def test_bfloat16_crosses_as_it_is(name: str) -> None:
    every_cut(kit.make(MODELS[name], precision="bfloat16"))


def test_outputs_of_earlier_stages_reach_the_loss() -> None:
    every_cut(kit.make(several, loss=of_both))


def test_a_loss_may_be_weighted() -> None:
    every_cut(kit.make("mlp", loss=kit.weighted_loss))


def test_a_model_is_cut_anywhere_but_between_two_uses_of_the_same_statistics() -> None:
    units = every_cut(kit.make(statistics))
    assert [(unit.name, unit.joined) for unit in units] == [
        ("before", False), ("shared", True), ("between", True), ("shared", False), ("after", False)
    ]  # fmt: skip
    assert all(unit.forward_seconds > 0 and unit.backward_seconds > 0 for unit in units)
    assert units[0].crossing_bytes == SIZES[0] * FEATURES * 4


def test_what_a_graph_optimizer_would_fuse_may_be_parted() -> None:
    assert not any(unit.joined for unit in every_cut(kit.make(apart)))


def test_masks_cross_with_what_they_mask() -> None:
    units = every_cut(kit.make(masked))
    dense = next(unit for unit in units if unit.name.startswith("dense"))
    assert dense.crossing_bytes == SIZES[0] * FEATURES * 8 * 4 + SIZES[0] * FEATURES


class Subclassed(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(CLASSES)

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)


def regularized() -> Any:
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dense(CLASSES, kernel_regularizer="l2")])


class Adding(layers.Layer):  # type: ignore[misc]
    def call(self, inputs: Any) -> Any:
        self.add_loss(keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def adding() -> Any:
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dense(CLASSES), Adding(), layers.Dense(CLASSES)])


def quiet() -> Any:
    """A penalty on what a layer gives."""
    return keras.Sequential([
        keras.Input((FEATURES,)), layers.Dense(CLASSES, activity_regularizer="l2", name="quiet"), layers.Dense(CLASSES)
    ])  # fmt: skip


def branches() -> Any:
    def chosen(value: Any) -> Any:
        return keras.ops.cond(keras.ops.sum(value) > 0, lambda: value, lambda: -value)

    return keras.Sequential([keras.Input((FEATURES,)), layers.Lambda(chosen), layers.Dense(CLASSES)])


@pytest.mark.parametrize(
    ("model", "changes", "text"),
    [
        (Subclassed, {}, "received Subclassed, whose layers only its own code knows. Build it with keras.Sequential"),
        (regularized, {}, "adds a regularizer of its own. Give the optimizer a weight_decay"),
        (quiet, {}, "'quiet' (adds a regularizer of its own|has one, and this is Keras 3)"),
        (adding, {}, "a layer calls add_loss. Return what it adds as an output"),
        (loops, {}, "loop.*while' is one .*unroll=True"),
        (branches, {}, "no loops and branches in its graph; .* or train with pipeline=1"),
        (wild, {"stages": [lambda model, value: value]}, "received job.stages. Leave it out"),
        (wild, {"split_points": ["dense"]}, "received job.split_points. Leave it out"),
        (wild, {"forward": lambda model, inputs: model(inputs)}, "received job.forward"),
    ],
)
def test_what_cannot_be_cut_is_refused(model: Any, changes: Any, text: str) -> None:
    inputs, targets = arrays()
    with pytest.raises(UsageError, match=text):
        adapter_of(kit.make(model, **changes)).units((inputs[:8], targets[:8]), 8)


def test_a_keras_whose_graphs_are_not_known_trains_uncut(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = adapter_of(kit.make(wild))
    monkeypatch.setattr(keras, "__version__", "3.99.0")
    inputs, targets = arrays()
    with pytest.raises(UsageError, match=r"with Keras 3\.10 to 3\.\d+.*this one is Keras 3\.99\.0.*pipeline=1"):
        adapter.units((inputs[:8], targets[:8]), 8)
