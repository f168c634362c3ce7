"""The passes of a PyTorch model in one process: a microbatch's loss, its gradient as it comes, its evaluation."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unisono.errors import JobError
from unisono.frameworks.arrays import leave
from unisono.frameworks.attributes import shapes
from unisono.frameworks.jobs import called
from unisono.frameworks.lossrules import check_loss, no_graph
from unisono.frameworks.nests import leaves
from unisono.frameworks.protocol import Array, GradientInParts, Measured
from unisono.frameworks.pytorch import determinism, devices
from unisono.frameworks.pytorch.attributes import attributes_of
from unisono.frameworks.pytorch.data import seed_everything
from unisono.frameworks.pytorch.inputs import bringer
from unisono.frameworks.pytorch.modes import Modes, without_gradients
from unisono.frameworks.pytorch.rows import Row, is_away, measured, own
from unisono.frameworks.pytorch.stages.operations import BufferPlace
from unisono.frameworks.pytorch.watching import Marks, Watch
from unisono.job import Job


def _tensors(nest: Any) -> list[Tensor]:
    return [leaf for _, leaf in leaves(nest) if isinstance(leaf, Tensor)]


class Passes:
    """What computes microbatches, for the whole model and for its stages.

    Args:
        job, model: the job and its model.
        modes: the modes of its modules.
        example: () → some microbatch.
        device: where the model lies.

    Attributes:
        named, parameters: every parameter, by number, with its name and without.
        trained: the numbers of the trained ones.
        buffers: every buffer, by index.
        into, used, adding: where the gradient hooks write, and where they add.
    """

    def __init__(
        self, job: Job, model: nn.Module, modes: Modes, example: Callable[[], Any], device: torch.device = devices.CPU
    ) -> None:
        self.job, self.model, self.modes, self.example, self.device = job, model, modes, example, device
        devices.pin(device, job.precision)
        self._brought = bringer(device)
        self.named = list(model.named_parameters())
        self.parameters = [parameter for _, parameter in self.named]
        self.trained = frozenset(n for n, parameter in enumerate(self.parameters) if parameter.requires_grad)
        self._named_places = [
            (f"{prefix}.{leaf}" if prefix else leaf, BufferPlace(module._buffers, leaf))
            for prefix, module in model.named_modules()
            for leaf, _ in module.named_buffers(recurse=False)
        ]
        self.buffers = [place for _, place in self._named_places]
        self.into: list[Tensor | None] = [None] * len(self.named)
        self.used, self.adding = np.zeros((2, len(self.named)), dtype=np.uint8)
        self._listeners: list[Callable[[int], None]] = []
        self._watches: dict[frozenset[int], Watch] = {}
        self._attributes = attributes_of(model, job.loss)
        self._marks: Marks | None = None
        self._key = 0
        self._hooks: list[Any] = [
            self.parameters[number].register_post_accumulate_grad_hook(self._receiver(number))  # type: ignore[no-untyped-call]
            for number in sorted(self.trained)
        ]

    def moved(self, device: torch.device) -> Passes:
        """The same on a device, in place of these: the model, and a loss that is a module, go there first, for what
        knows a parameter by its memory would not follow it."""
        for hook in self._hooks:
            hook.remove()
        for parameter in self.parameters:
            if not parameter._post_accumulate_grad_hooks:  # where torch swaps tensors, it would take them for known
                parameter._post_accumulate_grad_hooks = None  # type: ignore[assignment]
        self.model.to(device)
        if isinstance(self.job.loss, nn.Module):
            self.job.loss.to(device)
        return Passes(self.job, self.model, self.modes, self.example, device)

    def _receiver(self, number: int) -> Callable[[Tensor], None]:
        """Sends a gradient to the buffer of the microbatch at hand as soon as autograd has it.

        Copying beats letting autograd add into a zeroed view: half the bytes, and they are still in the cache. Where
        the buffer holds the sum that this microbatch is added to next, adding at once saves writing and reading it.
        """
        # Not `self`: a parameter whose hook holds the parameter is never freed.
        destinations, used, adding, listeners = self.into, self.used, self.adding, self._listeners

        def receive(parameter: Tensor) -> None:
            gradient, into = parameter.grad, destinations[number]
            assert gradient is not None
            assert into is not None
            parameter.grad = None
            if gradient.is_sparse:
                gradient = gradient.to_dense()
            if used[number] and adding[number]:
                raise GradientInParts
            if used[number] or adding[number]:
                into.add_(gradient)
            else:
                into.copy_(gradient)
            used[number] = 1
            for listener in listeners:
                listener(number)

        return receive

    def named_buffers(self) -> list[tuple[str, Tensor]]:
        """The buffers that are there now, by their names."""
        return [(name, place.tensor) for name, place in self._named_places if place.tensor is not None]

    def seed(self, key: int) -> None:
        """Seed every generator of this process, and its device's."""
        self._key = key
        seed_everything(key)
        devices.seed(key, self.device)

    def forget(self) -> None:
        """What the parameters are may be another from here on."""
        self._marks = None
        for watch in self._watches.values():
            watch.forget()

    # -- a microbatch --------------------------------------------------------------------------------------

    def gradient(
        self, batch: Any, samples: int, into: Sequence[Any], used: Array, add: bool,
        listener: Callable[[int], None] | None,
    ) -> Row:  # fmt: skip
        """See `Adapter.gradient`; the listener hears of each parameter's as it comes. Nothing leaves a device."""
        inputs, targets = self._brought(batch)
        self.modes.train()
        self.into[:] = into
        self.used[:], self.adding[:] = 0, add
        self._listeners[:] = [listener] if listener else []
        with self.explained(inputs), self.autocast():
            outputs = self.forward(inputs)
            total, weight = self.loss(outputs, targets, samples)
        if total.requires_grad:
            with determinism.explained(self.device):
                total.backward()  # type: ignore[no-untyped-call]
        used |= self.used
        for flag, tensor in zip(self.used, self.into, strict=True):
            if tensor is not None and not flag:
                if not is_away(tensor):
                    leave(0, tensor.numpy(), add)
                elif not add:
                    tensor.zero_()
        self.into[:] = [None] * len(self.into)
        return self.row(total, weight, outputs, targets)

    def rehearse(self) -> None:
        """See `Adapter.rehearse`."""
        with contextlib.suppress(Exception):
            inputs, targets = self._brought(self.example())
            self.modes.train()
            self.seed(0)
            with self.autocast():
                total, _ = self._weighted(self.forward(inputs), targets, 1)
            torch.autograd.grad(total, [self.parameters[number] for number in sorted(self.trained)], allow_unused=True)

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> Row:
        """See `Adapter.evaluate`. Nothing is fetched of a device."""
        inputs, targets = self._brought(batch)

        def answer() -> tuple[Any, Tensor, Any]:
            outputs = self.forward(inputs)
            total, weight = self._weighted(outputs, targets, samples)
            return outputs if self.job.predict is None else self.job.predict(self.model, inputs), total, weight

        self.modes.evaluate()
        with self.explained(inputs), self.autocast():
            outputs, total, weight = without_gradients(answer, lambda: self.seed(self._key))
            metrics = self._metrics(self.job.metric_functions, outputs, targets)
        return Row(own(total), own(weight), metrics, (outputs, targets) if keep_outputs else None)

    # -- its parts -----------------------------------------------------------------------------------------

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The block in which the forward pass and the loss run."""
        if self.job.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def forward(self, inputs: Any) -> Any:
        """The model's outputs."""
        if self.job.stages is not None:
            return functools.reduce(lambda value, piece: piece(self.model, value), self.job.stages, inputs)
        if self.job.forward is not None:
            return self.job.forward(self.model, inputs)
        return called(self.model, inputs)

    def _weighted(self, outputs: Any, targets: Any, samples: int) -> tuple[Tensor, Any]:
        """Σ loss and its weight, which may lie on the device."""
        result = self.job.loss(outputs, targets)
        if isinstance(result, tuple):
            total, weight = result
            return torch.as_tensor(total), weight if is_away(weight) else float(weight)
        if not isinstance(result, Tensor) or result.numel() != 1:
            shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise JobError(
                f"job.loss must return one number (the mean over samples) or (total, weight); received {shape}. "
                "Use reduction='mean', or return (losses.sum(), losses.numel())."
            )
        return result * samples, float(samples)

    def loss(self, outputs: Any, targets: Any, samples: int) -> tuple[Tensor, Any]:
        """Σ loss and its weight; on the CPU it is finite and has a graph, of a device's `measured` sees to it."""
        total, weight = self._weighted(outputs, targets, samples)
        if self.device.type == "cpu":
            check_loss(total.item(), weight, lambda: all(bool(t.isfinite().all()) for t in _tensors(outputs)))
            if weight and not total.requires_grad:
                raise self._lost(outputs)
        return total, weight

    @staticmethod
    def _lost(outputs: Any) -> JobError:
        return no_graph(any(tensor.requires_grad for tensor in _tensors(outputs)))

    def row(self, total: Tensor, weight: Any, outputs: Any, targets: Any) -> Row:
        """What is measured of a training pass."""
        metrics, trains = self._metrics(self.job.training_metrics, outputs, targets), self.device.type != "cpu"
        lost = self._lost(outputs) if trains and not total.requires_grad else None
        return Row(own(total), own(weight), metrics, trains=trains, lost=lost)

    def measured(self, total: Tensor, weight: Any, outputs: Any, targets: Any) -> Measured:
        """The same in plain numbers."""
        return self.numbers([self.row(total, weight, outputs, targets)])[0]

    def numbers(self, rows: Sequence[Row]) -> list[Measured]:
        """What passes gave in plain numbers: a device's in one transfer, so a round's are asked for together.

        Raises:
            JobError: a loss is not finite, or no gradient follows from it.
            SpoiledError: a pass on a device has changed a parameter.
        """
        return measured(rows, self._marks)

    @staticmethod
    def _metrics(functions: Mapping[str, Callable[..., Any]], outputs: Any, targets: Any) -> Any:
        """(sum, count) of each metric."""
        with torch.no_grad():
            return tuple(
                (own(total), own(count)) for total, count in (each(outputs, targets) for each in functions.values())
            )

    @contextlib.contextmanager
    def explained(self, inputs: Any, elsewhere: frozenset[int] = frozenset()) -> Iterator[None]:
        """A block that explains known errors of a forward pass, and refuses what it may not change.

        Args:
            inputs: the pass's.
            elsewhere: parameters that another stage may be updating.
        """
        if elsewhere not in self._watches:
            named = [pair for number, pair in enumerate(self.named) if number not in elsewhere]
            self._watches[elsewhere] = Watch(self.model, named)
        watch = self._watches[elsewhere]
        if self._marks is None and self.device.type != "cpu":
            self._marks = Marks(self.named)
        before = watch.look()
        try:
            with (
                self._attributes.one_pass(lambda: (shapes(inputs), torch.is_grad_enabled())),
                determinism.explained(self.device),
            ):
                yield
        except Exception as error:
            watch.check(before)
            if not (isinstance(error, ValueError) and "Expected more than 1 value per channel" in str(error)):
                raise
            raise JobError(
                "BatchNorm needs at least two samples in a microbatch; this one has a single one. "
                "Set drop_last=True, or choose fewer microbatches so that each has more samples."
            ) from error
        watch.check(before)
