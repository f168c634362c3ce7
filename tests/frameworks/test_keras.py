"""What is Keras's own: forms of losses and optimizers, unbuilt models, seeds, `tf.Module`, `tf.data`, `model.keras`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from waiting import limit

keras = pytest.importorskip("keras")

import tensorflow as tf  # noqa: E402

import frameworks.kits.keras as kit  # noqa: E402
import unisono  # noqa: E402
from faults import hash_of, run, undisturbed  # noqa: E402
from frameworks.kits.samples import CLASSES, FEATURES, Pairs, arrays  # noqa: E402
from unisono.errors import JobError, UsageError  # noqa: E402
from unisono.frameworks.arrays import aligned_zeros  # noqa: E402
from unisono.frameworks.keras.backends import BACKEND  # noqa: E402
from unisono.frameworks.keras.building import AVERAGES, version  # noqa: E402
from unisono.frameworks.keras.data import Data  # noqa: E402
from unisono.frameworks.keras.model import Adapter  # noqa: E402
from unisono.frameworks.keras.optimizers import Rule  # noqa: E402
from unisono.frameworks.keras.update_rules import UpdateRules, agree  # noqa: E402
from unisono.frameworks.keras.updates import TILES, Operands  # noqa: E402
from unisono.frameworks.keras.variables import value_of  # noqa: E402

OPTIMIZERS = keras.optimizers
ELEMENTWISE = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam", "Lion", "Ftrl")


def example() -> Any:
    inputs, targets = arrays()
    return inputs[:1], targets[:1]


def adapter(job: unisono.Job) -> Adapter:
    Data().seed_model(job.seed)
    return Adapter(job, job.model(), 6, example)


def same_bits(job: unisono.Job, *workers: int) -> list[dict[str, Any]]:
    expected, records = undisturbed(job)
    for count in workers:
        outcome, _, _ = run(job, count)
        assert outcome.failure is None, outcome.failure
        assert hash_of(outcome) == expected, count
    return records


# -- optimizers --------------------------------------------------------------------------------------------


def trained() -> list[Any]:
    generator = np.random.default_rng(0)
    shapes = ((40, 30), (30,))
    return [keras.Variable(generator.normal(size=s).astype("float32"), name=f"v{n}") for n, s in enumerate(shapes)]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_listed_optimizers_act_element_by_element(name: str) -> None:
    rules = UpdateRules(getattr(OPTIMIZERS, name)(learning_rate=0.1), dict(enumerate(trained())))
    assert rules.kind == "elementwise"
    assert all(agree(tiles, size) for tiles in set(rules._tiles.values()) for size in TILES)


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [
        (lambda: OPTIMIZERS.Adam(clipvalue=0.1), "elementwise"),
        (lambda: OPTIMIZERS.Adam(clipnorm=0.1), "tensor"),
        (lambda: OPTIMIZERS.Adam(global_clipnorm=0.1), "whole"),
        (lambda: OPTIMIZERS.Adafactor(), "tensor"),
        (lambda: OPTIMIZERS.Lamb(), "tensor"),
        (lambda: OPTIMIZERS.Muon(), "tensor"),
        (lambda: OPTIMIZERS.ScheduleFreeAdamW(), "whole"),
        (lambda: kit.Unknown(), "whole"),
    ],
)
def test_settings_decide_how_an_update_is_cut(optimizer: Any, kind: str) -> None:
    if "ScheduleFreeAdamW" in optimizer.__code__.co_names and not hasattr(OPTIMIZERS, "ScheduleFreeAdamW"):
        pytest.skip("ScheduleFreeAdamW came with Keras 3.14")
    assert UpdateRules(optimizer(), dict(enumerate(trained()))).kind == kind


@pytest.mark.parametrize("name", [*ELEMENTWISE, "Adafactor", "Lamb", "Muon"])
def test_a_rule_is_the_optimizers_own_step(name: str) -> None:
    if name == "Muon" and version() < (3, 14):
        pytest.skip("of Keras 3.10 Muon itself fails on TensorFlow")
    decay = {} if name in ("Adafactor", "Lamb", "Ftrl") else {"weight_decay": 0.01}
    ours, theirs = trained(), trained()
    rule = Rule(getattr(OPTIMIZERS, name)(learning_rate=0.1, **decay), ours)
    plain = getattr(OPTIMIZERS, name)(learning_rate=0.1, **decay)
    held = [_held(BACKEND.array(value_of(v))) for v in ours]
    slots = [
        _held(np.broadcast_to(first, tuple(v.shape))) for v, first in zip(rule.slots, rule.first_slots, strict=True)
    ]
    row, generator = rule.first_scalars, np.random.default_rng(1)
    for _ in range(4):
        gradients = [_held(generator.normal(size=v.shape).astype("float32")) for v in ours]
        row = rule.floats(Operands(rule, held, gradients, slots).step(row, (0, 1)))
        plain.apply([keras.ops.convert_to_tensor(g) for g in gradients], theirs)
    assert row[0] == 4
    for array, variable in zip(held, theirs, strict=True):
        np.testing.assert_allclose(array, BACKEND.array(value_of(variable)), rtol=2e-6, atol=2e-6)


def _held(values: Any) -> Any:
    array = aligned_zeros(values.shape, values.dtype)
    array[...] = values
    return array


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["Nadam", "Lion", "Muon"])
def test_other_optimizers_give_the_same_bits_too(name: str) -> None:
    same_bits(kit.make("wild", optimizer=lambda steps: getattr(OPTIMIZERS, name)(0.01)), 3)


def large() -> Any:
    """Several chunks, which worlds cut into tiles of every size."""
    layers = keras.layers
    return keras.Sequential([
        keras.Input((FEATURES,)), layers.Dense(611, "relu"), layers.Dense(703, "relu"), layers.Dense(CLASSES)
    ])  # fmt: skip


def test_tiles_of_every_size_give_the_same_bits() -> None:
    same_bits(kit.make(model=large, optimizer=kit.adam, steps=3), 3)


def without_decay(steps: int) -> Any:
    optimizer = OPTIMIZERS.AdamW(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def test_variables_without_weight_decay_are_known_by_name() -> None:
    job = kit.make(optimizer=without_decay, batch_size=100, order="sequential")
    same_bits(job, 2)
    outcome, _, _ = run(job)
    Data().seed_model(0)
    model = kit.mlp()
    model.compile(without_decay(6), kit.loss)
    for _ in range(6):
        model.train_on_batch(*arrays())
    for variable in model.weights:
        ours = outcome.state.saved(6).arrays[variable.path]
        np.testing.assert_allclose(ours, BACKEND.array(value_of(variable)), rtol=1e-4, atol=1e-6)


def constrained() -> Any:
    layers = keras.layers
    bounded = layers.Dense(33, "relu", kernel_constraint=keras.constraints.MaxNorm(0.5))
    return keras.Sequential([keras.Input((FEATURES,)), bounded, layers.Dense(CLASSES)])


def test_constraints_hold() -> None:
    job = kit.make(model=constrained, steps=3)
    same_bits(job, 2)
    outcome, _, _ = run(job)
    assert np.linalg.norm(outcome.state.parameter(0), axis=0).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (lambda steps: OPTIMIZERS.Adam(gradient_accumulation_steps=2), "larger batch_size"),
        (lambda steps: OPTIMIZERS.Adam(use_ema=True), "when fit\\(\\) ends"),
        (lambda steps: OPTIMIZERS.Adam(loss_scale_factor=2.0), "float16"),
        (lambda steps: OPTIMIZERS.LossScaleOptimizer(OPTIMIZERS.Adam()), "LossScaleOptimizer"),
        (lambda steps: OPTIMIZERS.Adam(lambda: 0.1), "LearningRateSchedule"),
        (lambda steps: object(), "received builtins.object. Write optimizer=keras.optimizers.Adam"),
        (OPTIMIZERS.Adam, "received keras.*Adam. Write optimizer="),
        ("adam", "received 'adam'. Write optimizer="),
    ],
)
def test_optimizers_that_do_not_fit_are_named(optimizer: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        adapter(kit.make(optimizer=optimizer))


def test_tf32_is_pytorchs() -> None:
    with pytest.raises(UsageError, match=r"received it in a job of Keras\. Leave it out"):
        adapter(kit.make(precision="tf32"))


def test_a_schedule_is_the_optimizers() -> None:
    with pytest.raises(UsageError, match="LearningRateSchedule"):
        adapter(kit.make(schedule=lambda optimizer, steps: None))


# -- losses and metrics ------------------------------------------------------------------------------------


def as_total(targets: Any, outputs: Any) -> Any:
    values = kit.loss(targets, outputs)
    return keras.ops.sum(values), values.shape[0]


def classifier() -> Any:
    layers = keras.layers
    return keras.Sequential([keras.Input((FEATURES,)), layers.Dense(CLASSES), layers.Softmax()])


def test_a_loss_is_a_function_an_object_or_a_name() -> None:
    forms = (kit.loss, as_total, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = [undisturbed(kit.make(loss=form))[1][-1]["loss"] for form in forms]
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)
    same_bits(kit.make(model=classifier, loss="sparse_categorical_crossentropy"), 2)


def of_another_framework() -> Any:
    def loss(targets: Any, outputs: Any) -> Any:
        return outputs

    loss.__module__, loss.__name__ = "torch.nn.functional", "mse_loss"
    return loss


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (of_another_framework(), "received torch.nn.functional.mse_loss"),
        ("no such loss", "a loss that Keras knows; received 'no such loss'"),
        (keras.losses.MeanSquaredError, "the class MeanSquaredError"),
        (keras.losses.MeanSquaredError(reduction="sum"), "reduction='sum'"),
    ],
)
def test_losses_that_do_not_fit_are_named(loss: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        adapter(kit.make(loss=loss))


def penalised() -> Any:
    layers = keras.layers
    hidden = layers.Dense(33, "relu", kernel_regularizer=keras.regularizers.L2(0.1))
    return keras.Sequential([
        keras.Input((FEATURES,)), hidden, layers.ActivityRegularization(l2=0.01), layers.Dense(CLASSES)
    ])  # fmt: skip


def test_penalties_on_outputs_take_a_keras_that_averages_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras, "__version__", "3.13.2")
    with pytest.raises(UsageError, match=r"takes Keras >= 3\.14.*'activity_regularization.*Keras 3\.13\.2.*Upgrade"):
        adapter(kit.make(penalised))


@pytest.mark.skipif(version() < AVERAGES, reason="refused")
def test_regularizers_count_once_a_batch() -> None:
    job = kit.make(model=penalised, optimizer=kit.sgd, batch_size=100, microbatches=4, order="sequential")
    outcome, records, _ = run(job)
    Data().seed_model(0)
    model = penalised()
    model.compile(kit.sgd(6), kit.loss)
    losses = [float(model.train_on_batch(*arrays())) for _ in range(6)]
    # The activity's penalty is not linear in the batch, so it agrees only nearly; the weights' does.
    assert records[0]["loss"] == pytest.approx(losses[0], rel=1e-3)
    for variable in model.weights:
        ours = outcome.state.saved(6).arrays[variable.path]
        np.testing.assert_allclose(ours, BACKEND.array(value_of(variable)), rtol=1e-2, atol=1e-3)


def test_metric_objects_are_fed_in_keras_order() -> None:
    metrics = {"accuracy": kit.accuracy, "object": keras.metrics.SparseCategoricalAccuracy()}
    job = kit.make(evaluation=lambda: Pairs(50, 2), metrics=metrics)
    for records in (run(job, 2)[1], undisturbed(job)[1]):
        assert records[-1]["evaluation/object"] == pytest.approx(records[-1]["evaluation/accuracy"])


# -- models ------------------------------------------------------------------------------------------------


class Noise(keras.layers.Layer):
    """Draws from Keras's global generator, as layers without a SeedGenerator do."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        return inputs + keras.random.normal(keras.ops.shape(inputs), stddev=0.1) if training else inputs


class Wild(keras.Model):
    """Not built until called; recurrent dropout, a shared, a frozen and an unused layer, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        layers = keras.layers
        self.embed = layers.Embedding(7, 8)
        self.recurrent = layers.LSTM(8, dropout=0.2, recurrent_dropout=0.2)
        self.shared = layers.Dense(8, "relu")
        self.frozen = layers.Dense(8, trainable=False)
        self.unused = layers.Dense(3)
        self.unused.build((None, 3))
        self.norm, self.noise = layers.BatchNormalization(), Noise()
        self.last = layers.Dense(CLASSES)

    def call(self, inputs: Any, training: bool = False) -> Any:
        tokens = keras.ops.cast(keras.ops.abs(inputs) * 2, "int32") % 7
        hidden = self.norm(self.recurrent(self.embed(tokens)), training=training)
        return self.last(self.frozen(self.noise(self.shared(self.shared(hidden)))))


@pytest.mark.few("adam")
@pytest.mark.parametrize("optimizer", ["adam", "unknown"])
def test_an_unbuilt_model_with_everything_gives_the_same_bits(optimizer: str) -> None:
    job = kit.make(model=Wild, optimizer=kit.OPTIMIZERS[optimizer], evaluation=lambda: Pairs(50, 2), steps=4)
    same_bits(job, 2)
    held = adapter(job).describe()
    names = [spec.name for spec in held.parameters]
    frozen = [name for name, owner in zip(names, held.owners, strict=True) if owner is None]
    assert frozen == ["wild/dense_1/kernel", "wild/dense_1/bias"]
    assert [spec.name.rpartition("/")[2] for spec in held.buffers] == ["moving_mean", "moving_variance"]


def test_the_seed_alone_decides_what_is_drawn() -> None:
    losses = [undisturbed(kit.make("wild", seed=seed))[1][-1]["loss"] for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def scaled(model: Any, inputs: Any) -> Any:
    return model(inputs * 2.0)


def test_forward_is_told_whether_it_trains() -> None:
    job = kit.make("wild", forward=scaled, evaluation=lambda: Pairs(50, 2))
    records = same_bits(job, 2)
    held = adapter(job)
    batch = arrays(8, 3)
    assert held.evaluate(batch, 8, False).loss == held.evaluate(batch, 8, False).loss
    assert records[-1]["evaluation/loss"] > 0


def test_bfloat16_gives_the_same_bits() -> None:
    same_bits(kit.make("cnn", precision="bfloat16"), 2)
    assert adapter(kit.make("cnn", precision="bfloat16")).model.layers[1].compute_dtype == "bfloat16"


class Line(tf.Module):
    """A tf.Module whose variables are made at once, with a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [self.layer(FEATURES, 33), self.layer(33, CLASSES)]
        self.mean = tf.Variable(tf.zeros(FEATURES), trainable=False)

    def layer(self, inputs: int, outputs: int) -> dict[str, Any]:
        start = keras.random.normal((inputs, outputs), stddev=0.2, seed=inputs)
        return {"kernel": tf.Variable(start), "bias": tf.Variable(tf.zeros(outputs))}

    def __call__(self, inputs: Any, training: bool = False) -> Any:
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(inputs, 0))
        first, second = self.layers
        hidden = tf.nn.relu((inputs - self.mean) @ first["kernel"] + first["bias"])
        return hidden @ second["kernel"] + second["bias"]


@pytest.mark.few("adam")
@pytest.mark.parametrize("optimizer", ["adam", "unknown"])
def test_a_module_of_tensorflow(optimizer: str) -> None:
    job = kit.make(model=Line, optimizer=kit.OPTIMIZERS[optimizer], evaluation=lambda: Pairs(50, 2))
    same_bits(job, 2)
    outcome, records, _ = run(job)
    assert set(outcome.state.saved(6).arrays) == {
        "layers/0/kernel", "layers/0/bias", "layers/1/kernel", "layers/1/bias", "mean",
    }  # fmt: skip
    assert records[0]["loss"] > records[-2]["loss"]
    assert np.abs(outcome.state.saved(6).arrays["mean"]).max() > 0


class Careless(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        return inputs + tf.random.normal(tf.shape(inputs))


def careless() -> Any:
    return keras.Sequential([keras.Input((FEATURES,)), Careless(), keras.layers.Dense(CLASSES)])


def test_random_numbers_with_hidden_state_are_refused() -> None:
    with pytest.raises(JobError, match=r"RandomStandardNormal.*SeedGenerator"):
        adapter(kit.make(model=careless)).gradient(
            arrays(8), 8, [(n, np.zeros(s, "float32")) for n, s in enumerate([(FEATURES, CLASSES), (CLASSES,)])],
            np.zeros(2, np.uint8),
        )  # fmt: skip


def test_parameters_are_views_of_shared_memory() -> None:
    held = adapter(kit.make())
    arrays_ = [aligned_zeros(s.shape, s.dtype) for s in held.describe().parameters]
    held.bind(arrays_)
    for array, variable in zip(arrays_, held.model.weights, strict=True):
        array[...] = 7
        assert np.all(BACKEND.array(value_of(variable)) == 7)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX does not tell")
def test_threads_that_are_held_too_late_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 0)
    with pytest.warns(UserWarning, match="the last bits may differ"):
        undisturbed(kit.make(steps=1))


# -- data --------------------------------------------------------------------------------------------------


def dataset() -> Any:
    return tf.data.Dataset.from_tensor_slices(arrays())


def test_a_dataset_of_tensorflow_is_read_into_memory() -> None:
    assert same_bits(kit.make(data=dataset), 2)[-1]["loss"] == undisturbed(kit.make())[1][-1]["loss"]
    assert undisturbed(kit.make(data=dataset()))[1][-1]["loss"] == undisturbed(kit.make())[1][-1]["loss"]


def test_a_dataset_must_end_and_is_frozen() -> None:
    with pytest.raises(UsageError, match=r"must end.*\.repeat"):
        Data().opened(dataset().repeat())
    with pytest.warns(UserWarning, match="frozen"):
        assert len(Data().opened(dataset().map(lambda x, y: (x + 1, y)))) == 100


def test_a_dataset_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unisono.frameworks.keras.data.MOST_BYTES", 100)
    with pytest.raises(UsageError, match="indexable source"):
        Data().opened(dataset())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own seeding")
@pytest.mark.parametrize("by_hand", [False, True])
def test_the_backends_generator_is_seeded_before_anything_draws_from_it(by_hand: bool) -> None:
    import tensorflow as tf

    def drawn() -> Any:
        if by_hand:
            tf.random.set_seed(3)
        image = tf.image.random_brightness(tf.ones((2, 2, 3)), 0.9)
        return [tf.random.uniform((3,)).numpy(), image.numpy(), tf.random.shuffle(tf.range(9)).numpy()]

    tf.random.uniform(())  # no seed waits from here on
    public = tf.random.set_seed
    Data().seed_everything(5)
    found = drawn()
    assert tf.random.set_seed is public, "nothing of TensorFlow's is replaced but while a seed waits"
    tf.random.set_seed(5)
    for one, other in zip(found, drawn(), strict=True):
        assert np.array_equal(one, other)


class Unlabelled(Pairs):
    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0], None


def test_targets_may_be_missing() -> None:
    same_bits(kit.make(data=Unlabelled, loss=lambda targets, outputs: keras.ops.mean(outputs**2, axis=-1)), 2)


def test_a_sample_that_does_not_fit_is_named() -> None:
    samples = [(np.zeros(3), 0), (np.zeros(3), 1), (np.zeros(4), 0)]
    with pytest.raises(JobError, match="sample 9 does not fit"):
        Data().collate(samples, [7, 8, 9])
    with pytest.raises(JobError, match="pair; sample 7 is int"):
        Data().collate([3], [7])


# -- what is left behind -----------------------------------------------------------------------------------


def test_the_whole_model_is_kept(tmp_path: Path) -> None:
    job = kit.make("wild", evaluation=lambda: Pairs(50, 2), metrics={"accuracy": kit.accuracy})
    kept = unisono.train(job, out=tmp_path / "run", workers=2)
    inputs, _ = arrays(50, 2)
    loaded = keras.models.load_model(tmp_path / "run" / "model.keras")
    np.testing.assert_array_equal(kit.outputs_of(loaded, inputs), kit.outputs_of(kept.model(), inputs))


JOB = """
import sys
sys.path.insert(0, {tests!r})
import frameworks.kits.keras as kit
def job():
    def large():
        layers = kit.keras.layers
        return kit.keras.Sequential([
            kit.keras.Input((20,)), layers.Dense(611, "relu"), layers.BatchNormalization(), layers.Dropout(0.2),
            layers.Dense(703, "relu"), layers.Dense(5),
        ])
    return kit.make(large, clip_norm=0.5, optimizer=kit.adam)
"""


def on_backend(backend: str, folder: Path, command: str, *arguments: str) -> str:
    """What a command says of the job."""
    pytest.importorskip(backend)
    (folder / "job.py").write_text(JOB.format(tests=str(Path(__file__).parent.parent)))
    done = subprocess.run(
        [sys.executable, "-m", "unisono", command, "job.py", "--steps", "4", *arguments],
        capture_output=True, text=True, timeout=limit(), cwd=folder, env={**os.environ, "KERAS_BACKEND": backend},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.few("torch")
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_same_job_on_other_backends(backend: str, tmp_path: Path) -> None:
    runs = [on_backend(backend, tmp_path, "train", *how) for how in (("--debug",), ("--workers", "2"))]
    one, two = (re.findall(r"parameters (\w{64})", text) for text in runs)
    assert one == two != []


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_are_verified(backend: str, tmp_path: Path) -> None:
    assert "Same bits" in on_backend(backend, tmp_path, "verify", "--workers", "1,3")
