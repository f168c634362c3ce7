"""What is MXNet's own: its optimizers, its layouts, its data sets and metrics, its two kinds of arrays, its engine."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from waiting import limit

mxnet = pytest.importorskip("mxnet")

from mxnet import autograd, gluon, nd  # noqa: E402
from mxnet.gluon import nn  # noqa: E402

from faults import Fault, Script, hash_of, run, undisturbed  # noqa: E402
from frameworks.kits import mxnet as kit  # noqa: E402
from frameworks.kits.samples import CLASSES, FEATURES, Pairs, arrays  # noqa: E402
from unisono import Job  # noqa: E402
from unisono.errors import JobError, UsageError  # noqa: E402
from unisono.frameworks.mxnet import seeding  # noqa: E402
from unisono.frameworks.mxnet.data import Data  # noqa: E402
from unisono.runtime.supervisor.outcome import raise_failure  # noqa: E402

mx = mxnet.optimizer


def same_bits(job: Job, *workers: int) -> Any:
    """The job's outcome in one process, once it is the same at each number of workers."""
    alone, records, _ = run(job)
    assert alone.failure is None, alone.failure
    for count in workers:
        outcome, found, messages = run(job, count)
        assert outcome.failure is None, outcome.failure
        assert hash_of(outcome) == hash_of(alone), count
        assert [r.get("loss") for r in found] == [r.get("loss") for r in records]
        assert not messages
    return alone, records


def failure_of(job: Job) -> str:
    """The text with which a job is refused."""
    with pytest.raises((UsageError, JobError)) as caught:
        raise_failure(run(job)[0])
    return str(caught.value)


def trained_plainly(job: Job, steps: int) -> dict[str, Any]:
    """The job's model after full-batch steps of gluon's Trainer."""
    mxnet.random.seed(0)
    model = job.model()
    model.initialize()
    inputs, targets = (nd.array(array, dtype=array.dtype) for array in arrays())
    with autograd.pause():
        model(inputs[:1])
    held = model._collect_params_with_prefix()
    trainer = gluon.Trainer(list(held.values()), job.optimizer, kvstore=None)  # Nadam depends on their order
    for _ in range(steps):
        with autograd.record():
            losses = kit.cross_entropy(model(inputs), targets)
        losses.backward()
        trainer.step(len(inputs))
    return {name: value.data().asnumpy() for name, value in held.items()}


def assert_close(ours: Any, theirs: dict[str, Any]) -> None:
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        assert np.linalg.norm(ours[name] - array) <= 1e-5 * np.linalg.norm(array), name


# -- optimizers --------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda: mx.SGD(learning_rate=0.05, wd=0.01),
    "ccsgd": lambda: mx.ccSGD(learning_rate=0.05, momentum=0.5),
    "nag": lambda: mx.NAG(learning_rate=0.05, momentum=0.9, clip_gradient=0.01),
    "signum": lambda: mx.Signum(learning_rate=0.001, wd_lh=0.01),
    "ftml": lambda: mx.FTML(learning_rate=0.01),
    "adam": lambda: mx.Adam(learning_rate=0.01, begin_num_update=3),
    "adagrad": lambda: mx.AdaGrad(learning_rate=0.05),
    "rmsprop": lambda: mx.RMSProp(learning_rate=0.01),
    # It divides by a variance, which nears zero: with the default epsilon, ten steps make 2e-5 of a rounding of 1e-7.
    "centered": lambda: mx.RMSProp(learning_rate=0.01, centered=True, epsilon=1e-4),
    "adadelta": lambda: mx.AdaDelta(rescale_grad=2.0),
    "ftrl": lambda: mx.Ftrl(learning_rate=0.1),
    "adamax": lambda: mx.Adamax(learning_rate=0.01),
    "lamb": lambda: mx.LAMB(learning_rate=0.01, wd=0.01),
    "lars": lambda: mx.LARS(learning_rate=1.0, momentum=0.9),
    "nadam": lambda: mx.Nadam(learning_rate=0.01),
    "dcasgd": lambda: mx.DCASGD(learning_rate=0.05),
}
KINDS = {"lamb": "tensor", "lars": "tensor", "nadam": "whole", "dcasgd": "whole"}


def several_blocks() -> Any:
    """A matrix of 10,001 elements: two cuts at blocks' ends, and a rest of odd length."""
    return kit.sequential(nn.Dense(137, activation="tanh"), nn.Dense(73), nn.Dense(CLASSES))


@pytest.mark.few("adam", "lamb", "dcasgd")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_agree_with_gluons_trainer_and_themselves(name: str) -> None:
    job = kit.make(model="mlp", optimizer=OPTIMIZERS[name](), batch_size=100, steps=10, order="sequential")
    job = Job(**{**vars(job), "model": several_blocks})
    outcome, _ = same_bits(job, 3)
    assert outcome.described.layout.description.kinds == (KINDS.get(name, "elementwise"),)
    assert_close(outcome.state.saved(10).arrays, trained_plainly(job, 10))


def scheduled(steps: int) -> Any:
    """Momentum that is corrected by the learning rate's changes: LARS remembers the last one in itself."""
    schedule = mxnet.lr_scheduler.FactorScheduler(2, 0.5, base_lr=1.0)
    return mx.LARS(learning_rate=1.0, momentum=0.9, lr_scheduler=schedule)


def nadam(steps: int) -> Any:
    """Its momentum schedule is a number in itself."""
    return mx.Nadam(lr_scheduler=mxnet.lr_scheduler.CosineScheduler(6, base_lr=0.01, final_lr=0.001))


def noisy(steps: int) -> Any:
    """It draws random numbers."""
    return mx.SGLD(learning_rate=1e-4)


@pytest.mark.few("nadam")
@pytest.mark.parametrize("optimizer", [scheduled, nadam, noisy])
def test_what_optimizers_keep_in_themselves_outlives_workers(optimizer: Any, tmp_path: Path) -> None:
    job = kit.make("wild", optimizer=optimizer, steps=12)
    phases = ("compute", "saved", "marked", "updated", "commit", "publish")
    script = Script(tmp_path, tuple(Fault(phase, 1 + n, n % 2) for n, phase in enumerate(phases)))
    outcome, records, _ = run(job, 2, phase=script)
    assert outcome.failure is None, outcome.failure
    expected, undisturbed_records = undisturbed(job)
    assert hash_of(outcome) == expected
    assert script.struck >= 4
    rates = [record["learning_rate"] for record in records]
    assert rates == [record["learning_rate"] for record in undisturbed_records]
    if optimizer is scheduled:
        assert rates[:6] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    if optimizer is nadam:
        assert rates[0] > rates[4] > rates[6]
        assert rates[6:] == [0.001] * 6, "a schedule that has ended stays there, for newcomers too"


def test_the_jobs_schedule_becomes_the_optimizers() -> None:
    def halve(optimizer: Any, steps: int) -> Any:
        assert steps == 6
        return mxnet.lr_scheduler.FactorScheduler(2, 0.5, base_lr=optimizer.lr)

    _, records = same_bits(kit.make(schedule=halve), 2)
    assert [record["learning_rate"] for record in records] == [0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125]


def test_names_classes_and_multipliers() -> None:
    def tuned() -> Any:
        model = kit.mlp()
        held = model._collect_params_with_prefix()
        held["0.weight"].lr_mult = 0.0
        held["1.weight"].wd_mult = 0.0
        return model

    adam, _ = same_bits(kit.make(optimizer="adam"))
    by_class, _ = same_bits(kit.make(optimizer=mx.Adam))
    assert hash_of(adam) == hash_of(by_class)
    job = kit.make(optimizer=mx.SGD(learning_rate=0.05, wd=0.1), batch_size=100, order="sequential")
    job = Job(**{**vars(job), "model": tuned})
    outcome, _ = same_bits(job, 2)
    assert_close(outcome.state.saved(6).arrays, trained_plainly(job, 6))


# -- models ------------------------------------------------------------------------------------------------


class Wild(nn.Block):
    """Not hybrid: control flow, tied, unused, frozen and sometimes-used parameters, a constant, a moving average."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Dense(33, in_units=FEATURES)
        self.tied = nn.Dense(33, in_units=33)
        self.same = nn.Dense(33, params=self.tied.params)
        self.frozen = nn.Dense(33, in_units=33)
        for parameter in self.frozen.collect_params().values():
            parameter.grad_req = "null"
        self.unused = nn.Dense(3, in_units=3)
        self.sometimes = self.params.get("sometimes", shape=(33,), init=mxnet.init.One())
        self.scale = self.params.get_constant("scale", [0.5])
        self.mean = self.params.get("mean", shape=(1, 33), init=mxnet.init.Zero(), grad_req="null")
        self.last = nn.Dense(CLASSES)

    def forward(self, inputs: Any) -> Any:
        hidden = self.first(inputs)
        if autograd.is_training():
            with autograd.pause():
                self.mean.set_data(0.9 * self.mean.data() + 0.1 * hidden.mean(0, keepdims=True))
        hidden = nd.relu(hidden - self.mean.data()) * self.scale.data()
        hidden = self.same(nd.relu(self.tied(nd.Dropout(hidden, 0.2)))) + self.frozen(hidden)
        if float(inputs[0, 0].asscalar()) > 0:
            hidden = hidden * self.sometimes.data()
        return self.last(hidden)


def test_blocks_with_control_flow_and_every_kind_of_parameter() -> None:
    job = Job(**{**vars(kit.make(clip_norm=0.5, evaluation=Pairs, optimizer=mx.Adam(learning_rate=0.01))),
                 "model": Wild})  # fmt: skip
    outcome, _ = same_bits(job, 2, 3)
    description = outcome.described.layout.description
    assert {spec.name for spec in description.buffers} == {"scale", "mean"}
    assert description.owners[[spec.name for spec in description.parameters].index("frozen.weight")] is None
    saved = outcome.state.saved(6).arrays
    assert np.array_equal(saved["tied.weight"], saved["same.weight"])
    assert saved["scale"] == np.float32(0.5)
    assert np.any(saved["mean"])
    counts = outcome.state.optimizer(6).arrays["sometimes/scalars"]
    assert 0 < counts[1] < 6, "no sample of one step used it"


def convolution(**options: Any) -> Any:
    image = nn.HybridLambda(lambda F, inputs: F.reshape(inputs, (-1, 1, 4, 5)))
    model = nn.HybridSequential()
    model.add(image, nn.Conv2D(16, 3, padding=1), nn.BatchNorm(), nn.Conv2D(32, 3, padding=1), nn.Dense(CLASSES))
    if options:
        model.hybridize(**options)
    return model


@pytest.mark.few("options2")
@pytest.mark.parametrize("options", [{}, {"active": True}, {"static_alloc": True}])
def test_evaluation_leaves_the_weights_layout_alone(options: dict[str, Any]) -> None:
    """oneDNN rewrites a convolution's weight in predict mode; the others of the host share that memory."""
    fields = {**vars(kit.make(optimizer=mx.Adam())), "model": lambda: convolution(**options)}
    plain, _ = same_bits(Job(**fields))
    evaluated, records = same_bits(Job(**{**fields, "evaluation": Pairs, "evaluate_every": 1}), 2)
    assert hash_of(plain) == hash_of(evaluated)
    losses = [record["evaluation/loss"] for record in records if "evaluation/loss" in record]
    assert len(set(losses)) == 6, "each evaluation sees the parameters of its step"


class Normed(nn.HybridBlock):
    """Keeps a weight normed by writing it back."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Dense(CLASSES, in_units=FEATURES)

    def forward(self, inputs: Any) -> Any:
        with autograd.pause():
            self.first.weight.data()[:] = self.first.weight.data() / 2
        return self.first(inputs)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_weight_that_a_forward_pass_writes_is_named(workers: int) -> None:
    outcome, _, _ = run(replace(kit.make(), model=lambda: initialised(Normed())), workers)
    assert outcome.failure is not None
    assert "may not change parameters" in outcome.failure.message
    assert "weight" in outcome.failure.message
    assert not outcome.consistent


class Teacher(nn.Block):
    """A convolution in predict mode while a gradient is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = convolution(), convolution()

    def forward(self, inputs: Any) -> Any:
        with autograd.pause():
            hints = self.teacher(inputs)
        return self.student(inputs) + hints


def test_predict_mode_convolutions_are_refused_while_training() -> None:
    assert "may not run in predict mode" in failure_of(Job(**{**vars(kit.make()), "model": Teacher}))


def initialised(*layers: Any) -> Any:
    model = nn.HybridSequential()
    model.add(*layers)
    model.initialize(mxnet.init.Xavier())
    return model


@pytest.mark.parametrize("units", [0, FEATURES])
def test_first_values_are_those_of_a_plain_script(units: int) -> None:
    def make() -> Any:
        return initialised(nn.Dense(7, in_units=units), nn.Dense(CLASSES, in_units=7 if units else 0))

    outcome, _, _ = run(Job(**{**vars(kit.make(seed=4, steps=1, optimizer=mx.SGD(learning_rate=0.0))), "model": make}))
    mxnet.random.seed(4)
    model = make()
    model(nd.zeros((1, FEATURES)))
    for name, parameter in model._collect_params_with_prefix().items():
        assert np.array_equal(outcome.state.saved(1).arrays[name], parameter.data().asnumpy()), name


class NumpyMlp(nn.HybridBlock):
    """A block in MXNet's NumPy form."""

    def __init__(self) -> None:
        super().__init__()
        mxnet.npx.set_np()
        self.first, self.drop, self.last = nn.Dense(33, activation="relu"), nn.Dropout(0.1), nn.Dense(CLASSES)

    def hybrid_forward(self, F: Any, inputs: Any) -> Any:
        return self.last(self.drop(self.first(F.np.tanh(inputs))))


def test_blocks_in_numpy_form() -> None:
    job = Job(**{**vars(kit.make(evaluation=Pairs, metrics={"accuracy": mxnet.metric.Accuracy()})), "model": NumpyMlp})
    try:
        same_bits(job, 2)
    finally:
        mxnet.npx.reset_np()


# -- data and metrics --------------------------------------------------------------------------------------


def test_gathered_samples_are_the_stacked_ones() -> None:
    inputs, targets = arrays()
    data = gluon.data.ArrayDataset(nd.array(inputs), targets.astype("int32"))
    indices = [7, 3, 99]
    gather, collate = Data().gather, Data().collate
    gathered, stacked = gather(data, indices), collate([data[i] for i in indices], indices)
    for one, other in zip(gathered, stacked, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one.asnumpy(), other.asnumpy())
    assert gather(data.transform_first(lambda x: x), indices) is None


def flicker(inputs: Any) -> Any:
    """A random transform that draws from all three generators."""
    return inputs * random.random() * float(np.random.rand()) + nd.random.normal(shape=inputs.shape)


def pairs_dataset() -> Any:
    inputs, targets = arrays()
    return gluon.data.ArrayDataset(nd.array(inputs), nd.array(targets))


@pytest.mark.parametrize(
    "data",
    [
        pairs_dataset,
        lambda: gluon.data.SimpleDataset(list(zip(*arrays(), strict=True))),
        lambda: pairs_dataset().transform_first(flicker),
        lambda: gluon.data.ArrayDataset(pairs_dataset().transform_first(flicker).transform(lambda x, y: x),
                                        arrays()[1]),
    ],
)  # fmt: skip
def test_data_sets(data: Any) -> None:
    same_bits(kit.make(data=data), 3)


def _hybrid() -> Any:
    block = nn.Dropout(0.5)
    block.hybridize()
    with autograd.record():
        return block(nd.ones((8,)))


def _own_seed() -> Any:
    mxnet.random.seed(3)
    return nd.random.uniform(shape=(3,))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: nd.random.uniform(shape=(3,)),
        lambda: mxnet.np.random.uniform(size=(3,)),
        lambda: gluon.data.vision.transforms.RandomBrightness(0.9)(nd.ones((2, 2, 3))),
        lambda: nd.concat(nd.random.normal(shape=(2,)), nd.random.normal(shape=(2,)), dim=0),
        _hybrid,
        _own_seed,
    ],
)  # fmt: skip
def test_the_generator_is_seeded_before_anything_draws_from_it(draw: Callable[[], Any]) -> None:
    seeding.seed_everything(5)
    python, numpy = random.random(), np.random.rand()
    found = draw().asnumpy(), nd.random.uniform(shape=(2,)).asnumpy()
    mxnet.random.seed(5)
    random.seed(5)
    np.random.seed(5)
    assert (python, numpy) == (random.random(), np.random.rand())
    expected = draw().asnumpy(), nd.random.uniform(shape=(2,)).asnumpy()
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_targets_may_be_missing_and_inputs_several() -> None:
    def two(samples: Any) -> Any:
        inputs = np.stack([sample[0] for sample in samples])
        return (inputs, nd.array(inputs)), None

    class Sum(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Dense(2)

        def hybrid_forward(self, F: Any, left: Any, right: Any) -> Any:
            return self.dense(left + right)

    fields = {**vars(kit.make(collate=two, loss=lambda outputs, targets: (outputs**2).mean())), "model": Sum}
    same_bits(Job(**fields), 2)


def test_metric_objects_see_every_sample_once() -> None:
    composite = mxnet.metric.CompositeEvalMetric([mxnet.metric.Accuracy(), mxnet.metric.TopKAccuracy(top_k=3)])
    metrics = {"right": mxnet.metric.Accuracy(), "both": composite, "accuracy": kit.accuracy}
    _, records = same_bits(kit.make(evaluation=lambda: Pairs(37, 2), metrics=metrics), 2)
    last = records[-1]
    assert last["evaluation/right"] == pytest.approx(last["evaluation/accuracy"])
    assert last["evaluation/both/accuracy"] == last["evaluation/right"]
    assert last["evaluation/both/top_k_accuracy_3"] > last["evaluation/right"]


# -- processes ---------------------------------------------------------------------------------------------


def test_two_threads_a_worker() -> None:
    job = kit.make("wild", steps=4)
    results = set()
    for workers in (1, 2):
        outcome, _, _ = run(job, workers, threads=2)
        assert outcome.failure is None, outcome.failure
        results.add(hash_of(outcome))
    assert len(results) == 1


FORKED = """
import os, sys
from unisono.frameworks.registry import made
from frameworks.kits import mxnet as kit
from frameworks.kits.samples import arrays
import numpy as np
framework, model = made(kit.make("cnn"), 1)
adapter = framework.adapter(kit.make("cnn"), model, 6, lambda: tuple(a[:1] for a in arrays()))
specs = adapter.describe().parameters
buffers = adapter.gradient_buffers({n: np.zeros(spec.shape, spec.dtype) for n, spec in enumerate(specs)})
def loss():
    return adapter.gradient(arrays(), 100, buffers, np.zeros(len(specs), np.uint8)).loss
first = loss()
assert len(os.listdir("/proc/self/task")) == 1, os.listdir("/proc/self/task")
assert adapter.describe().fingerprint["engine"] == "naive"
child = os.fork()
if not child:
    os._exit(0 if loss() == first else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def in_a_process(code: str, **more: str) -> str:
    """Run code in a fresh interpreter; returns what it printed."""
    path = os.pathsep.join([more.pop("first", ""), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=limit(), env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_process_that_has_computed_can_be_forked() -> None:
    assert not in_a_process(FORKED), "and MXNet's engine does not announce itself"


WITHOUT_TORCH = """
import sys
import unisono
assert not {"torch", "mxnet", "tensorflow", "jax"} & set(sys.modules)
from faults import run, undisturbed, hash_of
from frameworks.kits import mxnet as kit
from unisono.frameworks.registry import framework
outcome, _, _ = run(kit.make("wild"), 2)
assert outcome.failure is None, outcome.failure
assert hash_of(outcome) == undisturbed(kit.make("wild"))[0]
try:
    framework("pytorch")
except unisono.UsageError as error:
    print(error)
"""


def test_no_other_framework_is_needed(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch here', name='torch')\n")
    said = in_a_process(WITHOUT_TORCH, first=str(tmp_path))
    assert "needs 'torch', which is not installed" in said
    assert "pip install '.[torch]'" in said


def test_a_worker_that_dies_of_a_signal_costs_no_step(tmp_path: Path) -> None:
    job = kit.make("cnn", steps=8, evaluation=Pairs, evaluate_every=2, optimizer="adam")
    faults = (Fault("microbatch", 1, 0, signal=signal.SIGSEGV), Fault("microbatch", 3, 1), Fault("updated", 5, 1))
    outcome, records, _ = run(job, 3, phase=Script(tmp_path, faults))
    assert outcome.failure is None, outcome.failure
    expected, quiet = undisturbed(job)
    assert hash_of(outcome) == expected
    assert [r["loss"] for r in records if "loss" in r] == [r["loss"] for r in quiet if "loss" in r]


# -- what is refused ---------------------------------------------------------------------------------------


class Hoarder(mx.SGD):
    """State of its own."""

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        self.seen = [*getattr(self, "seen", []), index]
        super().update(index, weight, grad, state)

    update_multi_precision = update


class Late(mx.SGD):
    """State of its own, after a while."""

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        if self.num_update > 3:
            self.seen = index
        super().update(index, weight, grad, state)

    update_multi_precision = update


class Vast(Late):
    """Counts in large numbers."""

    total = 2**60

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        self.total += 1
        mx.SGD.update(self, index, weight, grad, state)

    update_multi_precision = update


def frozen() -> Any:
    model = kit.mlp()
    for parameter in model.collect_params().values():
        parameter.grad_req = "null"
    return model


def halved() -> Any:
    model = kit.mlp()
    model.cast("float16")
    return model


def sparse() -> Any:
    return kit.sequential(nn.Embedding(5, 3, sparse_grad=True))


def unreached() -> Any:
    model = Wild()
    model.unused = nn.Dense(3)
    return model


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"precision": "bfloat16"}, "compute in float32"),
        ({"optimizer": "adm"}, "no optimizer 'adm'. It has: .*adam"),
        ({"optimizer": lambda steps: 3}, "received int"),
        ({"optimizer": mx.LBSGD()}, "keeps 'cumgrads' in itself"),
        ({"optimizer": Hoarder()}, "keeps 'seen' in itself"),
        ({"optimizer": Late()}, "has changed 'seen' in itself"),
        ({"optimizer": Vast()}, "at most 2..53"),
        ({"model": frozen}, "nothing to train"),
        ({"model": halved}, "float16"),
        ({"model": sparse}, "dense"),
        ({"model": lambda: convolution(static_shape=True, static_alloc=True)}, "static_alloc=True may stay"),
        ({"model": unreached}, "'unused.weight' of shape .* was not reached"),
        ({"model": lambda: initialised_on(2)}, "lies on the CPU once"),
        ({"loss": lambda outputs, targets: outputs}, "one value a sample"),
        ({"loss": lambda outputs, targets: kit.cross_entropy(outputs, targets) * np.nan}, "must be finite"),
        ({"collate": lambda samples: ({"a": nd.zeros((4, 2))}, None)}, "by position; received a mapping of a"),
        ({"data": [np.zeros(3)] * 40}, "pair; sample"),
        (
            {"data": [(np.zeros(FEATURES + (index == 9), "float32"), 0) for index in range(40)], "order": "sequential"},
            "sample 9",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], text: str) -> None:
    model = changes.pop("model", kit.mlp)
    assert re.search(text, failure_of(Job(**{**vars(kit.make(**changes)), "model": model})))


def initialised_on(devices: int) -> Any:
    model = kit.mlp()
    model.initialize(ctx=[mxnet.cpu(number) for number in range(devices)])
    return model


class Foreign:
    """A metric object of another framework."""

    def update_state(self, targets: Any, outputs: Any) -> None: ...
    def result(self) -> float: ...  # type: ignore[empty-body]
    def reset_state(self) -> None: ...


def test_another_frameworks_metrics_are_refused() -> None:
    assert "Foreign" in failure_of(kit.make(metrics={"other": Foreign()}, evaluation=Pairs))


# -- threads -----------------------------------------------------------------------------------------------


class Indexed(gluon.HybridBlock):
    """Reads rows of a weight by an array of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.table = nn.Dense(CLASSES), self.params.get("table", shape=(7, CLASSES))

    def hybrid_forward(self, F: Any, inputs: Any, table: Any) -> Any:
        return F.broadcast_add(self.dense(inputs), F.gather_nd(table, F.zeros((1, 1))))


@pytest.mark.parametrize("hybridized", [False, True])
def test_what_adds_in_any_order_is_refused_on_several_threads(hybridized: bool) -> None:
    def model() -> Any:
        made = Indexed()
        if hybridized:
            made.hybridize()
        return made

    job = Job(**{**vars(kit.make(model="mlp", steps=2)), "model": model})
    raise_failure(run(job, 1)[0])
    failure = run(job, 1, threads=2)[0].failure
    assert failure is not None
    assert "gather_nd does not in MXNet 1.9.1" in failure.message
    raise_failure(run(kit.make(model="cnn", steps=2), 1, threads=2)[0])


# -- attributes --------------------------------------------------------------------------------------------


class Counting(gluon.Block):
    """Carries a count from call to call."""

    def __init__(self, carried: bool) -> None:
        super().__init__()
        self.dense, self.carried, self.calls = nn.Dense(CLASSES, in_units=FEATURES), carried, 0

    def forward(self, inputs: Any) -> Any:
        self.calls = self.calls + 1 if self.carried else len(inputs)
        return self.dense(inputs) * self.calls


def test_plain_attributes_are_not_carried_from_microbatch_to_microbatch() -> None:
    job = Job(**{**vars(kit.make(model="mlp", steps=4)), "model": lambda: Counting(True)})
    failure = run(job, 1)[0].failure
    assert failure is not None
    assert "it changes 'calls' and reads it again" in failure.message
    raise_failure(run(replace(job, model=lambda: Counting(False)), 1)[0])
