"""What is JAX's own: the three forms, optax's parts, tiles, aliases, keys, and effects that are refused."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("jax") is None or importlib.util.find_spec("flax") is None:
    pytest.skip("jax is not installed in this environment", allow_module_level=True)

import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx

import unisono
from counting import is_linear
from faults import Fault, Script, hash_of, run, undisturbed
from frameworks.kits import jax as kit  # first: it holds XLA's threads
from frameworks.kits.samples import CLASSES, FEATURES, Pairs, arrays
from unisono.errors import UsageError
from unisono.frameworks.arrays import aligned_copy
from unisono.frameworks.jax import transformations
from unisono.frameworks.jax.memory import Shared
from unisono.frameworks.jax.optimizers import TILE, Optimizer
from unisono.frameworks.jax.optimizers import _leaves as state_leaves
from unisono.frameworks.jax.updates import TileUpdate
from unisono.frameworks.scratch import Scratch
from unisono.gradients.regions import BLOCK, Region, slices
from waiting import limit, until


class Linen(linen.Module):
    """The wild model of the kit in flax.linen."""

    @linen.compact
    def __call__(self, inputs: Any, train: bool) -> Any:
        hidden = linen.BatchNorm(use_running_average=not train)(linen.Dense(500)(inputs))
        hidden = linen.Dropout(0.2, deterministic=not train)(linen.relu(hidden))
        return linen.Dense(CLASSES)(hidden)


def variables() -> Any:
    """Plain variables with a state."""
    keys = jax.random.split(jax.random.key(0))
    shapes = {"first": (FEATURES, 33), "last": (33, CLASSES)}
    return {
        "params": {name: jax.random.normal(key, shapes[name]) / 5 for name, key in zip(shapes, keys, strict=True)},
        "statistics": {"mean": jnp.zeros(33), "calls": jnp.int32(0)},
    }


def forward(variables: Any, inputs: Any, key: Any, training: bool) -> Any:
    """Dropout by hand, and a running mean that is subtracted."""
    parameters, statistics = variables["params"], variables["statistics"]
    hidden = jax.nn.relu(inputs @ parameters["first"])
    mean = hidden.mean(0) if training else statistics["mean"]
    if training:
        hidden = hidden * jax.random.bernoulli(key, 0.8, hidden.shape) / 0.8
    new = {"mean": 0.9 * statistics["mean"] + 0.1 * mean, "calls": statistics["calls"] + 1}
    return (hidden - mean) @ parameters["last"], {"statistics": new}


def test_one_process_compiles_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is compiled once has the bits of what each compiles for itself."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    job = kit.make("wild", evaluation=lambda: Pairs(), steps=4)
    expected = hash_of(run(job)[0])
    temporary = tmp_path / "temporary"
    monkeypatch.setenv("TMPDIR", str(temporary))
    temporary.mkdir()
    assert hash_of(run(job, 2)[0]) == expected
    until(lambda: not list(temporary.iterdir()), "it has gone with the run")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "kept"))
    assert hash_of(run(job, 2)[0]) == expected
    names = [path.name.partition("-")[0] for path in (tmp_path / "kept").glob("*-cache")]
    assert names.count("jit__total") == names.count("jit__evaluated") == 1


FORMS: dict[str, dict[str, Any]] = {
    "linen": {"model": Linen},
    "variables": {"model": variables, "forward": forward},
}


@pytest.mark.few("variables")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_one_result_and_its_model(form: str, tmp_path: Path) -> None:
    evaluated = {"evaluation": lambda: Pairs(50, 2), "metrics": {"accuracy": kit.accuracy}}
    fields = {"loss": kit.cross_entropy, "optimizer": kit.adam, "data": Pairs, "batch_size": 32, "steps": 6}
    job = unisono.Job(**{**fields, **evaluated, **FORMS[form]})
    settings: list[dict[str, Any]] = [{"debug": True}, {"workers": 3}]
    runs = [unisono.train(job, out=tmp_path / str(number), **how) for number, how in enumerate(settings)]
    assert runs[0].parameters_sha256 == runs[1].parameters_sha256
    assert runs[1].manifest["fingerprint"]["xla_threads"] == "1"
    model, (inputs, targets) = runs[1].model(), arrays(50, 2)
    if form == "linen":
        module, values = model
        outputs = module.apply(values, inputs, train=False)
        assert set(values) == {"params", "batch_stats"}
    else:
        outputs, _ = forward(model, inputs, None, False)
        assert int(model["statistics"]["calls"]) == 6
    right = float(np.mean(np.asarray(outputs).argmax(1) == targets))
    assert right == pytest.approx(runs[1].history[-1]["evaluation/accuracy"])


def test_a_bare_tree_is_all_parameters() -> None:
    job = unisono.Job(
        model=lambda: [jnp.zeros((FEATURES, CLASSES)), jnp.zeros(CLASSES)],
        forward=lambda tree, inputs, key, training: inputs @ tree[0] + tree[1],
        loss=kit.cross_entropy, optimizer=optax.sgd(0.1), data=Pairs, batch_size=32, steps=3,
    )  # fmt: skip
    outcome, _, _ = run(job)
    assert outcome.failure is None, outcome.failure
    assert set(outcome.state.saved(3).arrays) == {"0", "1"}


ELEMENTWISE = {
    "adamw": optax.adamw(1e-3), "sgd": optax.sgd(0.1, 0.9, nesterov=True), "lion": optax.lion(1e-3),
    "adagrad": optax.adagrad(0.1), "clip": optax.chain(optax.clip(0.1), optax.nadam(1e-3)),
    "rmsprop": optax.rmsprop(0.01, centered=True, momentum=0.9), "radam": optax.radam(1e-3),
    "injected": optax.inject_hyperparams(optax.adam)(optax.linear_schedule(1e-2, 1e-3, 6)),
    "half": optax.adam(1e-2, mu_dtype=jnp.bfloat16),
}  # fmt: skip
WHOLE = {
    "global norm": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2)), "lamb": optax.lamb(1e-2),
    "adafactor": optax.adafactor(1e-2),
    "masked": optax.adamw(1e-3, mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)),
    "novograd": optax.novograd(1e-3), "steps": optax.MultiSteps(optax.adam(1e-2), 2),
    "noise": optax.chain(optax.add_noise(0.1, 0.5, key=jax.random.key(1)), optax.sgd(0.1)),
    "finite": optax.apply_if_finite(optax.adam(1e-2), 3),
}  # fmt: skip
SHAPES = {"a": jax.ShapeDtypeStruct((3, 200), jnp.float32), "b": jax.ShapeDtypeStruct((7,), jnp.float32)}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_known_chains_are_elementwise(name: str) -> None:
    assert Optimizer(ELEMENTWISE[name], SHAPES).kind == "elementwise"


@pytest.mark.parametrize("name", WHOLE)
def test_all_others_update_the_whole_model(name: str) -> None:
    assert Optimizer(WHOLE[name], SHAPES).kind == "whole"


@pytest.mark.few("global norm")
@pytest.mark.parametrize("name", ["injected", "half", "global norm", "novograd", "steps", "noise", "finite"])
def test_states_of_all_shapes_survive_deaths(name: str, tmp_path: Path) -> None:
    job = kit.make("mlp", optimizer={**ELEMENTWISE, **WHOLE}[name])
    expected, _ = undisturbed(job)
    faults = (Fault("updated", 1, 0), Fault("marked", 3, 1, signal=signal.SIGSEGV))
    outcome, _, _ = run(job, 2, phase=Script(tmp_path, faults))
    assert outcome.failure is None, outcome.failure
    assert hash_of(outcome) == expected


@pytest.mark.few("adamw")
@pytest.mark.parametrize("name", ["adamw", "lion", "rmsprop", "radam", "half"])
def test_the_cut_of_slices_never_reaches_a_bit(name: str) -> None:
    """Parameters of awkward sizes, updated by 1 to 5 slots: the same bits as one."""
    sizes = (5, 3 * BLOCK + 17, 1, 2 * TILE + 3, 64, 9 * BLOCK)
    members = [(number, str(number), (size,)) for number, size in enumerate(sizes)]
    region = Region.pack(0, "float32", 0, "elementwise", members)
    optimizer = Optimizer(ELEMENTWISE[name], [jax.ShapeDtypeStruct((size,), jnp.float32) for size in sizes])
    results = [_updated(optimizer, region, slots) for slots in (1, 2, 3, 4, 5)]
    assert len(set(results)) == 1


def _updated(optimizer: Optimizer, region: Region, slots: int) -> bytes:
    generator = np.random.default_rng(0)
    parameters = aligned_copy(generator.normal(size=region.length).astype("float32"))
    state = {key: aligned_copy(np.zeros(region.length, next(iter(places.values()))[1]))
             for key, places in optimizer.spec.vectors.items()}  # fmt: skip
    rows = np.zeros((2, len(region.parameters), 1 + len(optimizer.scalars)))
    rows[0, :, 0] = 1
    for step in range(3):
        gradient = generator.normal(size=region.length).astype("float32")
        for chunk in [chunk for part in slices([region], slots) for chunk in part]:
            views: dict[int, dict[str, Any]] = {
                p.parameter.number: {key: vector[at + p.start : at + p.stop] for key, vector in state.items()}
                for p in chunk.pieces
                for at in [p.parameter.offset]
            }
            span = slice(chunk.start, chunk.stop)
            update = TileUpdate(
                optimizer, Scratch(region, chunk, parameters[span], aligned_copy(gradient[span]), views)
            )
            update.step(rows[step & 1], rows[(step + 1) & 1], np.ones(len(region.parameters)))
    return b"".join(array.tobytes() for array in (parameters, *state.values(), rows))


def test_a_state_of_many_parameters_is_named_in_one_pass() -> None:
    def named(count: int) -> Any:
        parameters = {f"{number}": jnp.ones(2) for number in range(count)}
        return lambda: state_leaves(parameters, optax.adam(0.1).init(parameters))

    assert [(leaf.key, leaf.number) for leaf in named(2)()] == [
        ("0.count", None), ("0.mu", 0), ("0.mu", 1), ("0.nu", 0), ("0.nu", 1)
    ]  # fmt: skip
    assert is_linear(named, 60)


def test_jax_computes_on_shared_memory_itself() -> None:
    array = aligned_copy(np.ones(100, "float32"))
    shared, double = Shared(array), jax.jit(lambda x: 2 * x)
    assert float(double(shared.read())[99]) == 2
    array[:] = 5
    assert float(double(shared.read())[99]) == 10
    assert shared.read().unsafe_buffer_pointer() == array.ctypes.data
    crooked = Shared(np.zeros(200, "uint8")[4:104])
    crooked.array[:] = 7
    assert crooked.alias is None
    assert int(crooked.read()[3]) == 7


def test_jax_tells_whether_it_has_started() -> None:
    look = "import jax; from unisono.frameworks.jax.threads import started; print(started(), end=' ')"
    compute = "jax.numpy.zeros(1).block_until_ready(); print(started(), jax.config.jax_num_cpu_devices)"
    found = subprocess.run([sys.executable, "-c", f"{look}; {compute}"], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["False", "True", str(jax.config.jax_num_cpu_devices)]


def test_threads_that_are_held_too_late_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.warns(UserWarning, match="before Unisono could hold its threads: bits may differ"):
        undisturbed(kit.make(steps=1))


def test_it_compiles_once_per_shape() -> None:
    traced: list[Any] = []
    outcome, _, _ = run(kit.make(loss=_Counted(traced), steps=12, batch_size=36))
    assert outcome.failure is None, outcome.failure
    assert [shape[0] for shape in traced] == [5, 1, 3], "full ones, a batch's last one, the short batch's last one"


class _Counted:
    """A loss that counts how often it is traced."""

    def __init__(self, shapes: list[Any]) -> None:
        self.shapes = shapes

    def __call__(self, outputs: Any, targets: Any) -> Any:
        self.shapes.append(outputs.shape)
        return kit.cross_entropy(outputs, targets)


@pytest.mark.parametrize(("optimizer", "rate"), [
    (optax.adam(0.25), 0.25), (optax.adamw(optax.linear_schedule(1.0, 0.0, 4)), 0.75),
    (optax.inject_hyperparams(optax.sgd)(learning_rate=0.5), 0.5),
    (optax.chain(optax.clip(1.0), optax.inject_hyperparams(optax.sgd)(learning_rate=0.25)), 0.25),
    (optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1.0, 0.0, 4)), 0.75),
    (optax.chain(optax.scale_by_adam(), optax.scale(-1.0)), None),
])  # fmt: skip
def test_learning_rates_are_read_from_the_chain(optimizer: Any, rate: float | None) -> None:
    found = transformations.learning_rate(optimizer)
    assert (None if found is None else found(1)) == (None if rate is None else pytest.approx(rate))


SEEN: list[Any] = []


def leaking(outputs: Any, targets: Any) -> Any:
    SEEN.append(outputs)
    return kit.cross_entropy(outputs, targets)


def frozen(outputs: Any, targets: Any) -> Any:
    return kit.cross_entropy(outputs + np.random.rand(), targets)


def branching(outputs: Any, targets: Any) -> Any:
    losses = kit.cross_entropy(outputs, targets)
    return losses if float(losses.mean()) > 0 else 2 * losses


def reused(outputs: Any, targets: Any) -> Any:
    KEPT.last, last = outputs.mean(), getattr(KEPT, "last", 0.0)
    return kit.cross_entropy(outputs, targets) + last


class KEPT:
    """Where a loss may hide a traced value."""


def matrix(outputs: Any, targets: Any) -> Any:
    return outputs


@pytest.mark.parametrize(("loss", "text"), [
    (leaking, "'SEEN' changed"), (frozen, "JAX keys"), (branching, "jnp.where"), (reused, "side effect"),
    (matrix, "one number per sample"),
])  # fmt: skip
def test_what_cannot_be_compiled_is_named_with_a_way_out(loss: Any, text: str) -> None:
    SEEN.clear()
    outcome, _, _ = run(kit.make(loss=loss, batch_size=36))  # several shapes, so several traces
    assert outcome.failure is not None
    assert text in outcome.failure.message


class Counting(nnx.Module):
    """Changes an attribute while it is traced."""

    def __init__(self) -> None:
        self.last, self.calls = nnx.Linear(FEATURES, CLASSES, rngs=nnx.Rngs(0)), 0

    def __call__(self, inputs: Any) -> Any:
        self.calls += 1
        return self.last(inputs)


def test_an_nnx_module_that_changes_itself_is_refused() -> None:
    outcome, _, _ = run(unisono.Job(
        model=Counting, loss=kit.cross_entropy, optimizer=kit.sgd, data=Pairs, batch_size=32, steps=1
    ))  # fmt: skip
    assert outcome.failure is not None
    assert "nnx.Variable" in outcome.failure.message


@pytest.mark.parametrize(("changes", "text"), [
    ({"optimizer": lambda model: model.parameters()}, "optax transformation"),
    ({"optimizer": optax.adam}, "optax transformation"),
    ({"optimizer": optax.lbfgs()}, "needs no"),
    ({"schedule": lambda optimizer, steps: None}, "optimizer=lambda steps"),
    ({"precision": "tf32"}, r"how PyTorch multiplies on GPUs; received it in a job of JAX\. Leave it out"),
    ({"model": variables}, "job.forward"),
    ({"model": lambda: {"w": jnp.zeros(3, jnp.int32)}, "forward": forward}, "float32"),
    ({"model": lambda: {"w": jnp.zeros(3, jnp.bfloat16)}, "forward": forward}, "precision='bfloat16'"),
])  # fmt: skip
def test_wrong_jobs_are_refused_with_a_way_out(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        run(kit.make(**changes))


def test_an_optimizer_of_another_framework_is_named() -> None:
    torch = pytest.importorskip("torch")
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(UsageError, match="torch's SGD"):
        run(kit.make(optimizer=lambda steps: other))


def test_bfloat16_keeps_float32_masters_and_one_result() -> None:
    job = kit.make("wild", precision="bfloat16", optimizer=kit.adam)
    expected, records = undisturbed(job)
    outcome, _, _ = run(job, 2)
    assert hash_of(outcome) == expected
    assert {array.dtype for array in outcome.state.saved(6).arrays.values()} == {np.dtype("float32")}
    other = [record["loss"] for record in undisturbed(kit.make("wild", optimizer=kit.adam))[1]]
    losses = [record["loss"] for record in records]
    assert losses != other
    assert losses == pytest.approx(other, rel=0.05)


def test_object_metrics_see_plain_arrays() -> None:
    job = kit.make(evaluation=lambda: Pairs(50, 2), metrics={"accuracy": nnx.metrics.Accuracy(), "sum": kit.accuracy})
    outcome, records, _ = run(job, 2)
    assert outcome.failure is None, outcome.failure
    assert records[-1]["evaluation/accuracy"] == pytest.approx(records[-1]["evaluation/sum"])


def test_a_loss_of_nan_stops_the_run() -> None:
    outcome, _, _ = run(kit.make(loss=lambda outputs, targets: outputs.mean() * jnp.nan))
    assert outcome.failure is not None
    assert "finite" in outcome.failure.message


@pytest.mark.thorough
def test_the_digits_example_learns(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "digits_jax.py"
    command = [sys.executable, "-m", "unisono", "train", str(example), "epochs=6", "--workers", "2", "--out"]
    done = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True, timeout=limit())
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["evaluation/accuracy"] >= 0.95
    printed = "".join(log.read_text() for log in (tmp_path / "run" / "logs").iterdir())
    assert not re.search("error|warning", printed.lower())
