"""A job's model: described once, bound to shared memory, computed one microbatch at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from unisono.errors import UsageError
from unisono.frameworks.protocol.description import ModelDescription
from unisono.frameworks.protocol.device import DeviceFailed
from unisono.frameworks.protocol.measured import Measured
from unisono.frameworks.protocol.replica import Replica
from unisono.job import Job
from unisono.values.arrays import Array


class GradientInParts(Exception):
    """A parameter's gradient has come in several parts, as nested backward passes give it."""


class Model(Protocol):
    """A job's model in its framework, in one process.

    Args:
        job: the job.
        model: what `job.model()` returned.
        steps: the run's total number of steps, for schedules.
        example: gives the (inputs, targets) of some microbatch, for models that are built from their first input and
            for `rehearse`.

    Until `bind`, it computes with the model's own first values.
    """

    on_gradient: Callable[[int], None] | None = None
    """Called by `gradient` with the number of each parameter whose gradient is there, where the framework tells before
    all of them are."""

    can_add: bool = False
    """Whether `gradient` and `Stage.backward` can add to what gradient buffers hold."""

    @abstractmethod
    def __init__(self, job: Job, model: Any, steps: int, example: Callable[[], Any]) -> None: ...

    @staticmethod
    @abstractmethod
    def restored(job: Job, model: Any, path: Path, example: Callable[[], Any]) -> Any:
        """The model with the parameters of a saved file, as people use it without Unisono."""

    @staticmethod
    def answering(model: Any) -> AbstractContextManager[Any]:
        """A block in which a restored model answers: evaluation mode, no gradients."""
        return nullcontext()

    @abstractmethod
    def describe(self) -> ModelDescription:
        """The model as the core sees it."""

    @abstractmethod
    def initial(self, parameters: Sequence[Array]) -> None:
        """Write the initial parameters to shared memory."""

    @abstractmethod
    def bind(self, parameters: Sequence[Array]) -> None:
        """Make the model's parameters views of these arrays."""

    def refresh(self, step: int) -> None:
        """The shared parameters are those after `step` steps; called before their first use. Where they are not
        views, copy them here."""

    def compile(self) -> None:
        """Compile what this run's other processes will find in their common folder (see `Family.compiled`)."""

    def rehearse(self) -> None:
        """Compute a gradient and forget it, so that nobody waits for a newcomer's first touches, kernels and compiling.
        What fails here is left to fail at its own place in a step, where it is named."""

    @abstractmethod
    def seed(self, key: int) -> None:
        """Seed every generator of this process."""

    def live_buffers(self) -> list[Array]:
        """The model's buffers now, as arrays that share their memory."""
        return []

    def load_buffers(self, values: Sequence[Array]) -> None:
        """Give the model's buffers these values."""
        for live, value in zip(self.live_buffers(), values, strict=True):
            live[...] = value

    def gradient_buffers(self, arrays: Mapping[int, Array]) -> Any:
        """What `gradient` writes into, made of one array per trained parameter number."""
        return arrays

    @abstractmethod
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

    @abstractmethod
    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> Measured:
        """Loss and metrics of one microbatch without gradients, in evaluation mode."""

    def metric_objects(self, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        """`job.metric_objects` by name, each with `update(outputs, targets)`, `compute()` and `reset()`."""
        return metrics

    def fingerprint(self, device: str) -> Mapping[str, str]:
        """What of a device decides about bits; asked of a process that has it and does not compute.

        Raises:
            UsageError: it cannot be used.
        """
        raise self._without_devices(device)

    def device_failed(self, error: BaseException) -> DeviceFailed | None:
        """What an exception says of this process's device; None = nothing."""
        return error if isinstance(error, DeviceFailed) else None

    def replica(self, device: str) -> Replica:
        """This model's replica on a device that the process owns; called after `bind`.

        Raises:
            UsageError: the framework has none.
        """
        raise self._without_devices(device)

    def _without_devices(self, device: str) -> UsageError:
        name = type(self).__module__.removesuffix(".model").rpartition(".")[2]
        return UsageError(
            f"workers own devices only where the framework's adapter has replicas; received device={device!r}, and "
            f"that of {name} has none. Train without `--device`."
        )

    def export(self, path: Path) -> None:
        """Keep the whole model in the framework's own file, if there is such a thing (see `Family.model_file`)."""
