"""Gluon models cut between their blocks give the uncut bits: every cut, microbatches in flight, any sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mxnet = pytest.importorskip("mxnet")

from mxnet import autograd, nd  # noqa: E402
from mxnet.gluon import nn  # noqa: E402

from faults import Fault, Script, hash_of, run, undisturbed  # noqa: E402
from frameworks.kits import mxnet as kit  # noqa: E402
from frameworks.kits.samples import CLASSES, FEATURES, arrays  # noqa: E402
from unisono import Job, Layout  # noqa: E402
from unisono.errors import UsageError  # noqa: E402
from unisono.frameworks.arrays import aligned_zeros  # noqa: E402
from unisono.frameworks.mxnet.data import Data  # noqa: E402
from unisono.frameworks.mxnet.model import Adapter  # noqa: E402
from unisono.frameworks.protocol import Crossing, Unit  # noqa: E402
from unisono.memory.crossing import read, write  # noqa: E402
from unisono.partition.stages import schedule  # noqa: E402
from unisono.runtime.supervisor.outcome import raise_failure  # noqa: E402

SIZES = (8, 8, 3)
"""Samples of the microbatches: the last one is short."""

ENTRY = 1 << 18


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    Data().pin(1)


@dataclass(frozen=True)
class Bits:
    """What a microbatch gave."""

    measured: Any
    gradients: dict[int, bytes]
    used: list[int]
    buffers: list[bytes]


class Machine:
    """A job's microbatches, computed whole and in stages, over memory that others would share."""

    def __init__(self, job: Job) -> None:
        inputs, targets = arrays()
        ends = np.cumsum(SIZES)
        self.batches = [(inputs[e - n : e], targets[e - n : e]) for e, n in zip(ends, SIZES, strict=True)]
        Data().seed_model(job.seed)
        self.adapter = Adapter(job, job.model(), 6, lambda: (inputs[:1], targets[:1]))
        self.description = self.adapter.describe()
        shared = [aligned_zeros(spec.shape, spec.dtype) for spec in self.description.parameters]
        self.base = [live.copy() for live in self.adapter.live_buffers()]
        self.adapter.initial(shared)
        self.adapter.bind(shared)

    def units(self) -> tuple[Unit, ...]:
        self.start(0)
        return self.adapter.units(self.batches[0], SIZES[0])

    def start(self, microbatch: int) -> None:
        self.load(self.base)
        self.adapter.seed(100 + microbatch)

    def load(self, values: list[Any]) -> None:
        for live, value in zip(self.adapter.live_buffers(), values, strict=True):
            live[...] = value

    def arrays(self) -> dict[int, Any]:
        specs = enumerate(self.description.parameters)
        return {n: np.full(s.shape, 7, s.dtype) for n, s in specs if self.description.owners[n] is not None}

    def used(self) -> Any:
        return np.zeros(len(self.description.parameters), np.uint8)

    @staticmethod
    def bits(measured: Any, gradients: dict[int, Any], used: Any, buffers: Any) -> Bits:
        return Bits(
            measured, {n: a.tobytes() for n, a in gradients.items()}, list(used), [b.tobytes() for b in buffers]
        )

    def whole(self) -> list[Bits]:
        found = []
        for microbatch, batch in enumerate(self.batches):
            self.start(microbatch)
            gradients, used = self.arrays(), self.used()
            into = self.adapter.gradient_buffers(gradients)
            measured = self.adapter.gradient(batch, SIZES[microbatch], into, used)
            found.append(self.bits(measured, gradients, used, self.adapter.live_buffers()))
        return found

    def cut(self, cuts: tuple[int, ...], recompute: bool = False) -> list[Bits]:
        """In 1F1B order, through memory, as the runtime does it."""
        count = len(cuts) - 1
        stages = [self.adapter.stage(cuts, index, recompute) for index in range(count)]
        self.check_owners(stages)
        memory: dict[tuple[str, int, int], Any] = {}
        gradients, used = [self.arrays() for _ in SIZES], [self.used() for _ in SIZES]
        measured: list[Any] = [None] * len(SIZES)
        buffers = [list(self.base) for _ in SIZES]
        kept: dict[tuple[int, int], Any] = {}
        waiting = [list(schedule(index, count, len(SIZES))) for index in range(count)]
        while any(waiting):
            for index, passes in enumerate(waiting):
                if not passes or not self.ready(passes[0], index, count, memory):
                    continue
                do, m = passes.pop(0)
                if do == "forward":
                    received = self.received(memory, "forward", index - 1, m)
                    self.start(m)
                    passed = stages[index].forward(self.batches[m], SIZES[m], received)
                    kept[index, m] = passed.kept
                    self.send(memory, "forward", index, m, passed.sent)
                    for b in stages[index].buffers:
                        buffers[m][b] = self.adapter.live_buffers()[b].copy()
                    measured[m] = passed.measured or measured[m]
                else:
                    received = self.received(memory, "backward", index + 1, m)
                    self.load(self.base)
                    into = self.adapter.gradient_buffers(gradients[m])
                    sent = stages[index].backward(kept.pop((index, m)), received, into, used[m])
                    self.send(memory, "backward", index, m, sent)
        return [self.bits(measured[m], gradients[m], used[m], buffers[m]) for m in range(len(SIZES))]

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
        memory[way, index, m] = aligned_zeros(ENTRY, np.uint8)
        write(what.arrays, what.plain, memory[way, index, m])

    @staticmethod
    def received(memory: dict[Any, Any], way: str, index: int, m: int) -> Crossing:
        return Crossing(*read(memory[way, index, m])) if (way, index, m) in memory else Crossing()


def places_of(machine: Machine) -> list[int]:
    """The units before which the model may be cut, and its end."""
    units = machine.units()
    return [number + 1 for number, unit in enumerate(units) if not unit.joined]


def check_all_at_once(job: Job) -> tuple[Machine, list[Bits], list[int]]:
    """Cut at all places at once, and into a stage that computes everything again; returns the bits and the places."""
    machine = Machine(job)
    whole = machine.whole()
    *places, end = places_of(machine)
    assert machine.cut((0, *places, end)) == whole
    assert machine.cut((0, *places, end), recompute=True) == whole
    assert machine.cut((0, end), recompute=True) == whole
    return machine, whole, places


def check_every_cut(job: Job) -> tuple[Machine, list[Bits], list[int]]:
    """Cut in two at each place, too."""
    machine, whole, places = check_all_at_once(job)
    end = len(machine.units())
    for place in places:
        assert machine.cut((0, place, end)) == whole, place
    return machine, whole, places


# -- models ------------------------------------------------------------------------------------------------


def chain(*layers: Any, kind: Any = nn.HybridSequential) -> Any:
    model = kind()
    model.add(*layers)
    return model


class Residual(nn.HybridBlock):
    """A leaf with blocks of its own: a skip connection, statistics, random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm, self.drop = nn.Dense(24), nn.BatchNorm(), nn.Dropout(0.4)

    def hybrid_forward(self, F: Any, inputs: Any) -> Any:
        return inputs + self.drop(self.norm(F.tanh(self.dense(inputs))))


def wild() -> Any:
    return chain(
        nn.Dense(24, activation="tanh"), nn.BatchNorm(), nn.Dropout(0.2), chain(Residual(), nn.Dropout(0.3), nn.GELU()),
        nn.LayerNorm(), nn.Dense(CLASSES),
    )  # fmt: skip


def images() -> Any:
    """Convolutions hand arrays in a layout of their own to the next block."""
    return chain(
        nn.HybridLambda(lambda F, inputs: F.reshape(inputs, (-1, 1, 4, 5))), nn.Conv2D(16, 3, padding=1),
        nn.Activation("relu"), nn.BatchNorm(), nn.Conv2D(32, 3, padding=1), nn.BatchNorm(), nn.MaxPool2D(2),
        nn.Dropout(0.2), nn.Conv2D(16, 2), nn.GlobalAvgPool2D(), nn.Dense(CLASSES),
    )  # fmt: skip


def tied(uses: int) -> Any:
    """One block used several times; another one shares its parameters."""
    shared = nn.Dense(FEATURES, activation="tanh", in_units=FEATURES)
    other = nn.Dense(FEATURES, in_units=FEATURES, params=shared.params)
    between = [layer for _ in range(uses - 2) for layer in (nn.Dropout(0.1), shared)]
    return chain(shared, *between, nn.Dense(FEATURES, activation="relu"), other, nn.Dense(CLASSES))


def repeated_statistics() -> Any:
    norm = nn.BatchNorm()
    return chain(nn.Dense(12), norm, nn.Dense(12, activation="relu"), norm, nn.Dense(CLASSES), kind=nn.Sequential)


class Forked(nn.Block):
    """Gives two arrays, one of which takes no gradient, and whole numbers; draws from NumPy's generator."""

    def forward(self, inputs: Any) -> Any:
        noise = nd.array(np.random.normal(size=inputs.shape))
        return inputs * noise, [(inputs > 0).detach(), None], nd.arange(3, dtype="int32")


class Joined(nn.Block):
    def forward(self, values: Any) -> Any:
        values, (mask, nothing), numbers = values
        assert nothing is None
        return values * mask * (1 + numbers[2].astype("float32"))


class Blocked(nn.Block):
    """Lets no gradient through, or has a parameter that only some samples use."""

    def __init__(self, blocks: bool) -> None:
        super().__init__()
        self.blocks = blocks
        self.sometimes = self.params.get("sometimes", shape=(FEATURES,), init=mxnet.init.One())
        self.mean = self.params.get("mean", shape=(1, FEATURES), init=mxnet.init.Zero(), grad_req="null")

    def forward(self, inputs: Any) -> Any:
        with autograd.pause():
            self.mean.set_data(0.9 * self.mean.data() + 0.1 * inputs.mean(0, keepdims=True))
        inputs = inputs - self.mean.data()
        return inputs.detach() if self.blocks else inputs * self.sometimes.data() if inputs.shape[0] > 3 else inputs


class Scaled(nn.HybridBlock):
    """Written for MXNet's NumPy form."""

    def hybrid_forward(self, F: Any, inputs: Any) -> Any:
        return inputs * F.np.tanh(inputs)


def structured() -> Any:
    return chain(nn.Dense(FEATURES), Blocked(True), nn.Dense(FEATURES), Forked(), Joined(), Blocked(False),
                 nn.Dropout(0.5), nn.Dense(CLASSES), kind=nn.Sequential)  # fmt: skip


def compiled(make: Callable[[], Any], **options: Any) -> Callable[[], Any]:
    def made() -> Any:
        model = make()
        model.hybridize(**options)
        return model

    return made


def noisy_loss(outputs: Any, targets: Any) -> Any:
    return kit.cross_entropy(outputs + nd.random.normal(shape=outputs.shape), targets)


def make(model: Callable[[], Any], **changes: Any) -> Job:
    return Job(**{**vars(kit.make(**{"metrics": {"accuracy": kit.accuracy}, **changes})), "model": model})


MODELS: dict[str, Callable[[], Any]] = {"wild": wild, "images": images, "tied": lambda: tied(3)}


@pytest.mark.few("wild", "images")
@pytest.mark.parametrize("name", MODELS)
def test_every_cut_gives_the_uncut_bits(name: str) -> None:
    machine, whole, places = check_every_cut(make(MODELS[name]))
    end = len(machine.units())
    refused = set(range(1, end)) - set(places)
    for place in refused:
        assert machine.cut((0, place, end)) != whole, "else it should be offered"
    if name == "images":  # BatchNorm takes what a convolution gives in a layout of its own
        assert refused <= {2, 3, 5}
    else:
        assert not refused


@pytest.mark.parametrize(
    ("name", "options"),
    [("wild", {}), *((name, {"static_alloc": True}) for name in MODELS)],
    ids=["compiled wild", *(f"static {name}" for name in MODELS)],
)
def test_compiled_models_have_the_same_bits(name: str, options: dict[str, Any]) -> None:
    _, whole, places = check_all_at_once(make(compiled(MODELS[name], **options)))
    assert len(places) >= 5
    assert Machine(make(MODELS[name])).whole() == whole


def test_many_uses_of_a_parameter_are_added_as_mxnet_adds_them() -> None:
    check_all_at_once(make(lambda: tied(9)))


def test_statistics_stay_in_one_stage() -> None:
    assert check_every_cut(make(repeated_statistics))[2] == [1, 4]


def test_values_of_any_form_and_parameters_that_are_not_used() -> None:
    machine, whole, _ = check_all_at_once(make(structured, loss=noisy_loss))
    names = [spec.name for spec in machine.description.parameters]
    sometimes = names.index("5.sometimes")
    assert [bits.used[sometimes] for bits in whole] == [1, 1, 0]
    assert [bits.used[names.index("0.weight")] for bits in whole] == [0, 0, 0], "nothing comes back to it"


def test_blocks_in_numpy_form() -> None:
    mxnet.npx.set_np()
    try:
        check_all_at_once(make(lambda: chain(*tied(3), nn.Dropout(0.2), Scaled())))
    finally:
        mxnet.npx.reset_np()


def test_a_pipe_of_processes_gives_the_bits_of_one(tmp_path: Path) -> None:
    job = make(wild, steps=4)
    expected, records = undisturbed(job)
    script = Script(tmp_path, (Fault("forward", 1, 0), Fault("backward", 2, 1)))
    outcome, found, _ = run(job, 2, layout=Layout(pipeline=2), phase=script)
    raise_failure(outcome)
    assert script.struck == 2
    assert hash_of(outcome) == expected
    assert [record["loss"] for record in found] == [record["loss"] for record in records]


def test_units_are_measured_and_leave_no_trace() -> None:
    machine = Machine(make(wild))
    before = [live.copy() for live in machine.adapter.live_buffers()]
    units = machine.units()
    assert all(np.array_equal(a, b) for a, b in zip(before, machine.adapter.live_buffers(), strict=True))
    assert [unit.name for unit in units] == ["0", "1", "2", "3.0", "3.1", "3.2", "4", "5"]
    assert units[0].crossing_bytes == SIZES[0] * 24 * 4
    assert units[2].activation_bytes == 2 * units[0].activation_bytes, "what Dropout has drawn is kept too"
    assert units[-1].crossing_bytes == 0
    assert all(unit.forward_seconds > 0 and unit.backward_seconds > 0 for unit in units)
    names = [spec.name for spec in machine.description.parameters]
    assert {names[n] for n in units[1].parameters} == {"1.gamma", "1.beta"}
    assert len(units[1].buffers) == 2


# -- what is refused ---------------------------------------------------------------------------------------


class Own(nn.HybridSequential):
    """May do anything."""


class Keyed(nn.Block):
    def forward(self, inputs: Any) -> Any:
        return {"inputs": inputs}


class Unkeyed(nn.Block):
    def forward(self, inputs: Any) -> Any:
        return inputs["inputs"]


@pytest.mark.parametrize(
    ("model", "changes", "text"),
    [
        (lambda: chain(nn.Dense(CLASSES), kind=Own), {}, r"received Own, whose order .* Build it with nn.HybridSeq"),
        (kit.mlp, {"forward": lambda model, inputs: model(inputs)}, "received job.forward, which calls the model in"),
        (lambda: chain(Keyed(), Unkeyed(), nn.Dense(CLASSES), kind=nn.Sequential), {}, "block '0' gives dict"),
    ],
)
def test_what_cannot_be_cut_is_refused(model: Any, changes: Any, text: str) -> None:
    machine = Machine(make(model, **changes))
    with pytest.raises(UsageError, match=text):
        machine.units()
    with pytest.raises(UsageError, match=text):
        machine.adapter.stage((0, 1, 2), 0, False)


@pytest.mark.parametrize(
    "changes",
    [{"stages": [lambda model, value: model(value)]}, {"split_points": ["0"]}],
    ids=["stages", "split_points"],
)
def test_cuts_by_hand_are_refused_before_anything_is_computed(changes: Any) -> None:
    with pytest.raises(UsageError, match=f"received job.{next(iter(changes))}. Leave it out"):
        Machine(make(kit.mlp, **changes))


def test_inputs_are_one_array() -> None:
    machine = Machine(make(kit.mlp))
    inputs, targets = machine.batches[0]
    with pytest.raises(UsageError, match="takes one array; the inputs are a tuple"):
        machine.adapter.units(((inputs, inputs), targets), SIZES[0])
