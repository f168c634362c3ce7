"""What the core asks of a framework, in arrays and plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from unisono.gradients.regions import Chunk, Kind, Region
from unisono.job import Job
from unisono.memory.packing import Reducers
from unisono.memory.spans import Views
from unisono.memory.versions import Versions

Array = NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's name, shape and dtype (names of NumPy; "bfloat16" is carried as uint16)."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def storage(self) -> str:
        """The NumPy dtype that carries its bits."""
        return "uint16" if self.dtype == "bfloat16" else self.dtype


@dataclass(frozen=True)
class StateSpec:
    """An optimizer's state, found by probing it once.

    Attributes:
        vectors: key → parameter number → (shape, dtype) of that parameter's state tensor.
        scalars: keys whose value is one number a parameter (`step`, NAdam's `mu_product`).
        tree: instead of these it is a tree that may grow (`Adapter.state_tree`), of an optimizer over the whole model.
        averaged: the parameters are trained as one set and evaluated and saved as another (schedulefree).
    """

    vectors: Mapping[str, Mapping[int, tuple[tuple[int, ...], str]]]
    scalars: tuple[str, ...]
    tree: bool = False
    averaged: bool = False


@dataclass(frozen=True)
class Source:
    """Where the tensor saved under a name of `state_dict()` lies: its kind and its index among that kind."""

    name: str
    kind: Literal["parameter", "frozen", "buffer"]
    index: int


@dataclass(frozen=True)
class ModelDescription:
    """All that the core knows of a model.

    Attributes:
        parameters: every parameter, by number.
        owners: per parameter the index of its optimizer, or None when it is frozen.
        kinds: per optimizer how its update may be cut.
        states: per optimizer its state.
        buffers: every buffer.
        saved: what the saved file holds.
        optimizers: per optimizer its class and the numbers in its groups, as plain values.
        fingerprint: framework versions and numerics.
    """

    parameters: tuple[TensorSpec, ...]
    owners: tuple[int | None, ...]
    kinds: tuple[Kind, ...]
    states: tuple[StateSpec, ...]
    buffers: tuple[TensorSpec, ...]
    saved: tuple[Source, ...]
    optimizers: tuple[Mapping[str, Any], ...]
    fingerprint: Mapping[str, str]


@dataclass(frozen=True)
class Measured:
    """What one microbatch gave: sums, so that they can be added over microbatches."""

    loss: float
    weight: float
    metrics: tuple[tuple[float, float], ...] = ()
    outputs: Any = None


@dataclass(frozen=True)
class Unit:
    """The smallest piece that a model is cut into: consecutive operations, in program order.

    Attributes:
        name: where it lies in the model ("layers.3").
        parameters: the numbers of the parameters that it uses.
        buffers: the indices of the buffers that it uses.
        forward_seconds, backward_seconds: measured on one microbatch.
        activation_bytes: what its forward pass keeps for its backward pass, for one microbatch.
        crossing_bytes: what would cross forward if the model were cut after it, for one microbatch.
        joined: the model cannot be cut after it.
    """

    name: str
    parameters: tuple[int, ...]
    buffers: tuple[int, ...]
    forward_seconds: float
    backward_seconds: float
    activation_bytes: int
    crossing_bytes: int
    joined: bool = False


@dataclass(frozen=True)
class Crossing:
    """What one stage hands to a neighbour for one microbatch: activations forward, their gradients backward.

    Attributes:
        arrays: NumPy arrays with any strides (bfloat16 as uint16); None for a gradient that there is not. What is
            received is a view of shared memory, 64-byte aligned, with the strides it was sent with; nobody writes it.
        plain: whatever else JSON can hold.
    """

    arrays: tuple[Array | None, ...] = ()
    plain: Any = None


@dataclass(frozen=True)
class Passed:
    """What a stage's forward pass gives for one microbatch.

    Attributes:
        kept: what its backward pass needs.
        sent: what the next stage receives; nothing from the last one.
        measured: the last stage's: loss, weight and metrics.
    """

    kept: Any
    sent: Crossing
    measured: Measured | None = None


class GradientInParts(Exception):
    """A parameter's gradient has come in several parts, as nested backward passes give it."""


class Stage(Protocol):
    """Consecutive units of a cut model, in one process; any number of microbatches may be on their way through it.

    `kept` of the forward pass goes to the backward pass of the same microbatch, in the order of the forward passes.
    A parameter that several stages use belongs to the first of them: the others send their part of its gradient
    up, last stage's first, and each stage adds its own uses to what it received, later uses first, as the uncut
    model does.
    """

    parameters: tuple[int, ...]
    """The trained parameters that belong to it: those whose gradients its backward pass leaves."""

    buffers: tuple[int, ...]
    """The buffers that its forward pass may change."""

    def forward(self, batch: Any, samples: int, received: Crossing) -> Passed:
        """The forward pass of one microbatch in training mode; generators are seeded and buffers loaded before.

        Where generators have moved, their states travel with the activations, and are what a later stage begins with.

        Args:
            batch: the microbatch's (inputs, targets), the same in every stage.
            samples: its number of samples.
            received: what the stage before has sent; nothing in the first one.
        """

    def backward(self, kept: Any, received: Crossing, into: Any, used: Array, add: bool = False) -> Crossing:
        """The backward pass; returns what the stage before receives (nothing from the first one).

        Args:
            kept: what the forward pass kept.
            received: what the next stage has sent; nothing in the last one.
            into: gradient buffers of `Adapter.gradient_buffers`; those of the stage's parameters are written.
            used: set where one of the stage's parameters had a gradient.
            add: see `Adapter.gradient`.
        """


class ChunkUpdate(Protocol):
    """Runs the optimizer on one chunk in scratch memory."""

    def step(self, before: Array, after: Array, used: Array) -> None:
        """Update the chunk's scratch in place.

        Args:
            before: float64 (parameters, 1 + scalars): the scalars at the step's start; column 0 tells whether
                the parameter has a state.
            after: the same at its end; only rows whose first element lies in the chunk are written.
            used: per parameter, whether any microbatch gave it a gradient.
        """


class DataFunctions(Protocol):
    """A framework's data module: how samples become a microbatch, and what must be seeded and held still."""

    REDUCERS: Reducers
    """How tensors travel between processes (see `unisono.memory.packing`)."""

    TENSORS: tuple[type, ...]
    """The framework's classes of arrays."""

    VIEWS: Views
    """How arrays that may be views of a larger memory are seen, so that a job's travel by what they hold."""

    def to_array(self, tensor: Any) -> tuple[Array, str]:
        """A tensor's values as an array of NumPy, and what else `from_array` has to know."""

    def from_array(self, array: Array, kind: str) -> Any:
        """What stands for the tensor after its journey, in memory of its own."""

    def seed_model(self, seed: int) -> None:
        """Seed what a model's first values may be drawn from."""

    def seed_everything(self, number: int) -> None:
        """Seed this process's default generators: before a sample, a collate or a forward pass."""

    def settings(self) -> Mapping[str, Any]:
        """What a script may have set for its whole process and results depend on, as plain values."""

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Set it as it was in another process."""

    def pin(self, threads: int) -> None:
        """Fix the number of threads that this process computes with; called before its first computation."""

    def opened(self, data: Any) -> Any:
        """Data in the framework's own form (a `tf.data.Dataset`, say) as a sequence; anything else as it is."""

    def draws_randomness(self, data: Any) -> bool:
        """Whether indexing these data may draw random numbers."""

    def gather(self, data: Any, indices: Sequence[int]) -> Any:
        """All samples at once where that gives the bits of stacking them one by one, else None."""

    def collate(self, samples: Sequence[Any], indices: Sequence[int]) -> Any:
        """Stack (inputs, targets) pairs; raises JobError that names the sample that does not fit."""


class Adapter(Protocol):
    """A job's model in its framework, in one process.

    Args:
        job: the job.
        model: what `job.model()` returned.
        steps: the run's total number of steps, for schedules.
        example: gives the (inputs, targets) of some microbatch, for models that are built from their first input and
            for `rehearse`.

    Until `bind`, it computes with the model's own first values.
    """

    rounds_seen: int
    """Rounds that the schedules have been stepped through."""

    on_gradient: Callable[[int], None] | None
    """Called by `gradient` with the number of each parameter whose gradient is there, where the framework tells before
    all of them are."""

    can_add: bool
    """Whether `gradient` and `Stage.backward` can add to what gradient buffers hold."""

    shares_compiled: bool
    """Whether processes find what another one has compiled (see `Family.compiled`), so that one compiles for all."""

    def __init__(self, job: Job, model: Any, steps: int, example: Callable[[], Any]) -> None: ...

    @staticmethod
    def restored(job: Job, model: Any, path: Path, example: Callable[[], Any]) -> Any:
        """The model with the parameters of a saved file, as people use it without Unisono."""

    @staticmethod
    def answering(model: Any) -> AbstractContextManager[Any]:
        """A block in which a restored model answers: evaluation mode, no gradients."""

    def refresh(self, step: int) -> None:
        """The shared parameters are those after `step` steps; called before their first use. Where they are not
        views, copy them here."""

    def describe(self) -> ModelDescription:
        """The model as the core sees it."""

    def initial(self, parameters: Sequence[Array], buffers: Sequence[Array], scalars: Array) -> None:
        """Write the initial parameters, buffers and optimizer scalars to shared memory."""

    def initial_state(self, state: Mapping[int, Mapping[str, Array]], scalars: Mapping[int, Array]) -> None:
        """Write the state that an optimizer has before its first step, by parameter number."""

    def bind(self, parameters: Sequence[Array]) -> None:
        """Make the model's parameters views of these arrays."""

    def state_tree(self, optimizer: int) -> tuple[Any, Mapping[str, Array]]:
        """The first state of an optimizer whose state is a tree: values that JSON can hold, and arrays by name. Only
        called where there is one, as is the next."""

    def bind_trees(self, trees: Mapping[int, Versions], averaged: Mapping[int, Array]) -> None:
        """Where such optimizers' states are kept, by optimizer; version t is the state after t steps. And by number
        where the parameters lie that are evaluated instead of those that are trained."""

    def warm_up(self) -> None:
        """Do once what the framework does at its first computation in a process."""

    def rehearse(self) -> None:
        """Compute a gradient and forget it, so that nobody waits for a newcomer's first touches, kernels and compiling.
        What fails here is left to fail at its own place in a step, where it is named."""

    def seed(self, key: int) -> None:
        """Seed every generator of this process."""

    def live_buffers(self) -> list[Array]:
        """The model's buffers now, as arrays that share their memory."""

    def gradient_buffers(self, arrays: Mapping[int, Array]) -> Any:
        """What `gradient` writes into, made of one array per trained parameter number."""

    def gradient(self, batch: Any, samples: int, into: Any, used: Array, add: bool = False) -> Measured:
        """Write one microbatch's gradient of Σ loss into gradient buffers; set `used` where there was one.

        Args:
            batch: the microbatch's (inputs, targets).
            samples: its number of samples.
            into: what `gradient_buffers` gave.
            used: a mark per parameter.
            add: add to what the buffers hold (where `can_add`), once per element: the same bits as adding later.

        Raises:
            GradientInParts: that cannot be; what the buffers held is lost.
        """

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        """Cut the model as finely as it can be, and measure the pieces on a microbatch.

        Raises:
            UsageError: it can't be cut; names the operation that prevents it.
        """

    def stage(self, cuts: tuple[int, ...], index: int, recompute: bool) -> Stage:
        """One stage of the model cut into units.

        Args:
            cuts: stage i is made of units cuts[i] … cuts[i + 1] − 1.
            index: which stage.
            recompute: keep only what crosses between the stage's units, and compute the rest again going backward.
        """

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> Measured:
        """Loss and metrics of one microbatch without gradients, in evaluation mode."""

    def metric_objects(self) -> Mapping[str, Any]:
        """`job.metric_objects` by name, each with `update(outputs, targets)`, `compute()` and `reset()`."""

    def chunk_update(
        self,
        region: Region,
        chunk: Chunk,
        parameters: Array,
        gradients: Array,
        state: Mapping[int, Mapping[str, Array]],
    ) -> ChunkUpdate:
        """An updater over scratch arrays: the chunk's span, its gradients, and per parameter number its state."""

    def advance_schedule(self) -> None:
        """Step the learning-rate schedules once."""

    def advance_plateau(self, loss: float, watched: float) -> None:
        """Step the schedules that follow evaluations.

        Args:
            loss: the evaluation's, of its first set.
            watched: the value that `job.best` names.
        """

    def learning_rate(self) -> float | None:
        """The first group's learning rate; None where it can't be seen."""
