"""A job: what to train. It says nothing about hardware and checks itself on construction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from unisono.errors import UsageError
from unisono.partition.batches import default_microbatches
from unisono.partition.order import Order
from unisono.values import bounds
from unisono.values.text import excerpt

RECORD_FIELDS = frozenset(
    {"step", "epoch", "loss", "learning_rate", "gradient_norm", "samples", "samples_per_second", "step_seconds",
     "compute_seconds", "data_seconds", "wait_seconds", "update_seconds", "slow_workers", "slots", "times",
     "round_seconds", "digests", "skipped"}
)  # fmt: skip

OBJECT_METHODS = (("update", "compute", "reset"), ("update_state", "result", "reset_state"), ("update", "get", "reset"))
"""Of a metric object: torchmetrics', Keras's, MXNet's."""


def _is_object(metric: Any) -> bool:
    return any(all(hasattr(metric, method) for method in methods) for methods in OBJECT_METHODS)


def _filled(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model, a loss, an optimizer and data; with the seed they determine the result.

    Raises:
        UsageError: a field breaks its rule; the text gives the rule, what was received and the way out.

    >>> job = Job(model=dict, loss=max, optimizer=list, data=[(0, 1)], batch_size=64, epochs=1)
    >>> job.microbatches
    4
    """

    model: Callable[[], Any]
    """() → model. Called once per host right after `torch.manual_seed(seed)`; may load weights."""

    loss: Any
    """(outputs, targets) → the mean over samples, or (total, weight). Others than PyTorch: see docs/frameworks.md."""

    optimizer: Any
    """(model) → an optimizer, or a list of optimizers over disjoint parameters; see docs/frameworks.md."""

    data: Any
    """Training samples: a sequence (`len()` and integer indexing), or () → sequence."""

    batch_size: int
    """Samples per step, over all workers."""

    microbatches: int = None  # type: ignore[assignment]
    """Pieces of a batch; part of the result. At least as many as the workers you will ever have. Default: 2 for a
    `batch_size` of less than 64, 4 for less than 512, else 8."""

    epochs: int | None = None
    """Length of the run in epochs; exactly one of `epochs` and `steps` is given."""

    steps: int | None = None
    """Length of the run in steps; exactly one of `epochs` and `steps` is given."""

    seed: int = 0
    """All randomness: initial parameters, order, dropout, augmentation."""

    collate: Callable[..., Any] | None = None
    """(samples) → (inputs, targets), called per microbatch with its generators seeded. Default: stack pairs."""

    order: Order = "shuffled"
    """"shuffled", "sequential", or (epoch, rng) → indices; see `by_length`, `stratified`, `weighted`."""

    drop_last: bool = False
    """Skip a short last batch."""

    forward: Callable[..., Any] | None = None
    """(model, inputs) → outputs. Default: `model(inputs)`; `*inputs` for a plain tuple, `**inputs` for a dict."""

    stages: Sequence[Callable[..., Any]] | None = None
    """The model's forward pass in pieces, each (model, value) → value, the first one's value being the inputs: where
    it may be cut, and what the uncut model computes too. Instead of `forward`."""

    split_points: Sequence[str] | None = None
    """Names of submodules before which the model may be cut, and nowhere else. PyTorch."""

    schedule: Callable[..., Any] | None = None
    """(optimizer, steps) → a learning-rate scheduler, stepped once per step; `steps` is the run's total."""

    clip_norm: float | None = None
    """Limit on the global gradient norm."""

    checked: bool = False
    """Look at every gradient before any parameter is updated: a step whose gradient is not finite then leaves all as it
    was, for one more pass over the gradients. `clip_norm` does so too."""

    precision: str = "float32"
    """"float32"; "bfloat16": autocast over float32; PyTorch's "tf32": GPUs multiply in TF32, CPUs in float32."""

    evaluation: Any = None
    """Evaluation samples: a sequence, () → sequence, or a mapping of names to them."""

    evaluate_every: int | None = None
    """Steps between evaluations; None = after each epoch and at the end."""

    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Name → (outputs, targets) → (sum, count) of a microbatch, or an object with `update`, `compute`, `reset` that is
    fed sample by sample (evaluation only)."""

    predict: Callable[..., Any] | None = None
    """(model, inputs) → what metrics see, in evaluation only. Default: `forward`, whose outputs metric functions see in
    training too."""

    infer: Callable[..., Any] | None = None
    """(model, input) → the answer to one input of `unisono predict` or `Run.infer`; the model is in evaluation mode."""

    observers: Sequence[Callable[[dict[str, Any]], None]] = ()
    """Functions called with each record of `metrics.jsonl`, in the process that was given the job, in order, each in a
    thread of its own. Nothing waits for them: one that raises or hangs is named, and costs what it has not seen."""

    best: tuple[str, str] | None = None
    """("max" | "min", name of an evaluation value): the best evaluation's parameters are kept as `model("best")`."""

    patience: int | None = None
    """Evaluations without a better one (see `best`) after which the run ends."""

    def __post_init__(self) -> None:
        self._check_functions()
        self._check_stages()
        self._check_numbers()
        self._check_best()
        self._check_metrics()
        self._check_data("data", self.data)
        named = self.evaluation if isinstance(self.evaluation, Mapping) else {"": self.evaluation}
        for name, data in named.items():
            if data is not None:
                if name != "":
                    bounds.name("the name of evaluation data", name)
                self._check_data(f"evaluation {name!r}" if name else "evaluation", data)

    def _check_functions(self) -> None:
        if not callable(self.model) or (hasattr(self.model, "parameters") and not isinstance(self.model, type)):
            raise UsageError(
                "job.model must be a function that makes the model, so that every host can make the same one; "
                f"received a {type(self.model).__name__} instance. Write model=lambda: "
                f"{type(self.model).__name__}(...)."
            )
        for name in ("loss", "optimizer"):
            value = getattr(self, name)
            if value is None or isinstance(value, int | float | list | dict):
                raise UsageError(f"job.{name} must be a function; received {excerpt(value)}.")
        for name in ("collate", "forward", "schedule", "predict", "infer"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise UsageError(f"job.{name} must be a function or None; received {excerpt(value)}.")
        if not isinstance(self.observers, list | tuple) or not all(callable(observer) for observer in self.observers):
            raise UsageError(
                f"job.observers must be a list of functions (record) -> None; received {excerpt(self.observers)}."
            )
        if not (callable(self.order) or (isinstance(self.order, str) and self.order in ("shuffled", "sequential"))):
            raise UsageError(
                f"job.order must be 'shuffled', 'sequential' or a function (epoch, rng) -> indices; received "
                f"{excerpt(self.order)}."
            )

    def _check_stages(self) -> None:
        pieces, points = self.stages, self.split_points
        if pieces is not None and not (_filled(pieces) and all(callable(piece) for piece in pieces)):
            raise UsageError(
                f"job.stages must be a list of functions (model, value) -> value, or None; received {excerpt(pieces)}."
            )
        if points is not None and not (_filled(points) and all(isinstance(point, str) for point in points)):
            raise UsageError(
                f"job.split_points must be a list of names of submodules, or None; received {excerpt(points)}. "
                "Write split_points=['layers.6']."
            )
        for other in ("split_points", "forward"):
            if pieces is not None and getattr(self, other) is not None:
                raise UsageError(
                    f"job.stages are the whole forward pass in pieces; received {other} too. Leave out one of them."
                )

    def _check_numbers(self) -> None:  # NumPy's become Python's
        for name in ("batch_size", "microbatches", "epochs", "steps", "evaluate_every", "patience"):
            value = getattr(self, name)
            if value is not None or name == "batch_size":
                object.__setattr__(self, name, bounds.whole(f"job.{name}", value))
        if (self.epochs is None) == (self.steps is None):
            given = "neither" if self.epochs is None else f"epochs={self.epochs} and steps={self.steps}"
            raise UsageError(f"a job has exactly one of epochs and steps; received {given}.")
        if self.microbatches is None:
            object.__setattr__(self, "microbatches", default_microbatches(self.batch_size))
        if self.microbatches > self.batch_size:
            raise UsageError(
                f"job.microbatches must be at most job.batch_size, for each holds a sample; received "
                f"{self.microbatches} and batch_size={self.batch_size}. Write microbatches={self.batch_size}, which "
                "gives what more would give."
            )
        if self.microbatches > bounds.MOST_MICROBATCHES:
            raise UsageError(
                f"job.microbatches must be at most {bounds.MOST_MICROBATCHES}, for every step passes over the "
                f"parameters once for each; received {self.microbatches}. As many as the workers that you will ever "
                "have are enough."
            )
        object.__setattr__(self, "seed", bounds.whole("job.seed", self.seed, 0, bounds.MOST_SEED))
        if self.clip_norm is not None:
            object.__setattr__(self, "clip_norm", bounds.limit("job.clip_norm", self.clip_norm))
        bounds.one_of("job.precision", self.precision, ("float32", "bfloat16", "tf32"))
        for name in ("drop_last", "checked"):
            bounds.switch(f"job.{name}", getattr(self, name))

    def _check_metrics(self) -> None:
        if not isinstance(self.metrics, Mapping):
            raise UsageError(f"job.metrics must map names to metrics; received {type(self.metrics).__name__}.")
        for name, metric in self.metrics.items():
            bounds.name("a metric's name", name)
            if name in RECORD_FIELDS:
                raise UsageError(f"{name!r} is a field of every record; a metric needs another name.")
            if not callable(metric) and not _is_object(metric):
                raise UsageError(
                    f"a metric must be a function (outputs, targets) -> (sum, count) or an object with update, "
                    f"compute and reset; metrics[{name!r}] is {type(metric).__name__}."
                )

    def _check_best(self) -> None:
        if self.best is not None and not (
            isinstance(self.best, tuple) and len(self.best) == 2 and self.best[0] in ("max", "min")
            and isinstance(self.best[1], str)
        ):  # fmt: skip
            raise UsageError(
                f"job.best must be ('max' or 'min', the name of an evaluation value); received {excerpt(self.best)}."
            )
        if self.best is not None and self.evaluation is None:
            raise UsageError("job.best needs something to evaluate; job.evaluation is None. Give it evaluation=.")
        if self.patience is not None and self.best is None:
            raise UsageError(
                f"job.patience counts evaluations without a better one; received {self.patience} and no job.best. "
                "Say what is better: best=('max', 'accuracy')."
            )

    @staticmethod
    def _check_data(name: str, data: Any) -> None:
        indexable = hasattr(data, "__len__") and hasattr(data, "__getitem__")
        read_once = hasattr(data, "as_numpy_iterator")  # a tf.data.Dataset
        if not indexable and not callable(data) and not read_once:
            raise UsageError(
                f"job.{name} must have len() and integer indexing, so that any worker can read any sample; received "
                f"{type(data).__name__}. Read it into a list, or write a map-style Dataset."
            )
        if indexable and not isinstance(data, type) and len(data) == 0:
            raise UsageError(f"job.{name} must hold samples; it is empty. Check the path or the filter that made it.")

    @property
    def metric_functions(self) -> dict[str, Callable[..., Any]]:
        """The metrics that give (sum, count) of each microbatch."""
        return {name: metric for name, metric in self.metrics.items() if not _is_object(metric)}

    @property
    def training_metrics(self) -> dict[str, Callable[..., Any]]:
        """Those that see the outputs of training too: none where `predict` makes what metrics see."""
        return {} if self.predict else self.metric_functions

    @property
    def metric_objects(self) -> dict[str, Any]:
        """The metrics that are fed sample by sample, in evaluation only."""
        return {name: metric for name, metric in self.metrics.items() if _is_object(metric)}

    def described(self) -> dict[str, Any]:
        """The plain values among the fields, for `run.json`."""
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: value for name, value in values if isinstance(value, int | float | str)}

    def identity(self) -> dict[str, Any]:
        """What tells this job from another one, besides its model, its optimizers and its data, as plain values."""
        names = ("batch_size", "microbatches", "seed", "order", "drop_last", "clip_norm", "precision", "schedule")
        return {name: _named(getattr(self, name)) for name in names}

    @property
    def waits_for_norms(self) -> bool:
        """Whether no parameter is updated before the norm of the whole gradient is known."""
        return self.checked or self.clip_norm is not None

    @property
    def is_evaluated(self) -> bool:
        """Whether it has data to evaluate on."""
        return self.evaluation is not None

    @property
    def is_observed(self) -> bool:
        """Whether it has observers."""
        return bool(self.observers)


def _named(value: Any) -> Any:
    return getattr(value, "__qualname__", type(value).__name__) if callable(value) else value
