"""A PyTorch job in one process: described, bound to shared memory, computed and updated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unisono.errors import UsageError
from unisono.frameworks import protocol
from unisono.frameworks.jobs import description
from unisono.frameworks.protocol import Array, ChunkUpdate, Measured, ModelDescription, Scratch, States, StateSpec
from unisono.frameworks.protocol.device import DeviceFailed
from unisono.frameworks.pytorch import devices, hooks
from unisono.frameworks.pytorch import optimizers as torch_optimizers
from unisono.frameworks.pytorch.chunks import TorchChunkUpdate, Work
from unisono.frameworks.pytorch.modes import Modes
from unisono.frameworks.pytorch.ownership import owners_of
from unisono.frameworks.pytorch.passes import Passes
from unisono.frameworks.pytorch.replicas import device_errors
from unisono.frameworks.pytorch.replicas.masters import Master
from unisono.frameworks.pytorch.replicas.replica import Parts, Replica
from unisono.frameworks.pytorch.replicas.wholes import Whole
from unisono.frameworks.pytorch.saving import restore, saved_tensors
from unisono.frameworks.pytorch.schedules import Schedules
from unisono.frameworks.pytorch.stages.cutter import Cutter
from unisono.frameworks.pytorch.stages.travel import as_array, as_tensor, dtype_name
from unisono.frameworks.pytorch.watching import check_buffers, check_memory
from unisono.frameworks.pytorch.whole import whole_optimizers
from unisono.frameworks.pytorch.whole_probe import probe
from unisono.frameworks.pytorch.whole_update import WholeUpdate
from unisono.gradients.regions import Kind, Region
from unisono.job import Job
from unisono.memory.versions import Versions
from unisono.partition.keys import key


class Adapter(protocol.Adapter):
    """See `unisono.frameworks.protocol.Adapter`."""

    can_add = True

    def __init__(self, job: Job, model: Any, steps: int, example: Callable[[], Any]) -> None:
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"job.model must return a torch.nn.Module; received {type(model).__name__}. Write model=Net or "
                "model=lambda: Net(...)."
            )
        for name in ("loss", "optimizer"):
            if not callable(getattr(job, name)):
                raise UsageError(f"job.{name} of a PyTorch job must be a function; received {getattr(job, name)!r}.")
        self._job, self.model, modes = job, model, Modes(model)
        named = list(model.named_parameters())
        check_buffers(model)
        check_memory(model, named)
        self._numbers = {id(parameter): number for number, (_, parameter) in enumerate(named)}
        self._masters, self._chosen = torch_optimizers.prepare(hooks.made(job.optimizer, model))
        self._owners, self._group_of = owners_of(named, self._masters)
        self._passes = Passes(job, model, modes, example)
        self._kinds: tuple[Kind, ...] = tuple(torch_optimizers.kind_of(master) for master in self._masters)
        self._whole = whole_optimizers(self._masters, self._kinds, model)
        self._states = tuple(
            (StateSpec({}, (), tree=True, averaged=self._whole[index].averages), {}) if index in self._whole
            else torch_optimizers.state_of(master, kind, self._numbers)
            for index, (master, kind) in enumerate(zip(self._masters, self._kinds, strict=True))
        )  # fmt: skip
        self._settings = tuple(torch_optimizers.plain_settings(master) for master in self._masters)
        self._schedules = Schedules(job, self._masters, self._whole, steps, lambda: self._passes.forget())
        self._averaged: dict[int, Tensor] = {}
        self._trained: dict[int, Tensor] = {}

    @staticmethod
    def restored(job: Job, model: nn.Module, path: Path, example: Callable[[], Any]) -> nn.Module:
        """See `Adapter.restored`."""
        restore(model, path)
        return model

    @staticmethod
    def answering(model: nn.Module) -> AbstractContextManager[Any]:
        """See `Adapter.answering`."""
        model.eval()
        return torch.inference_mode()

    def describe(self) -> ModelDescription:
        """See `Adapter.describe`."""
        for whole in self._whole.values():
            probe(whole)
        return self._description()

    def _description(self) -> ModelDescription:
        """The same of a model that may lie in memory which others read: no step is tried there."""
        return description(
            self._job, self._passes.named, self._owners, self._passes.named_buffers(), dtype_name,
            zip(self._kinds, (spec for spec, _ in self._states), self._settings, strict=True),
            {
                "framework": f"torch {torch.__version__}",
                **devices.fingerprint(self._passes.device),
                "optimizer": self._paths(),
            },
            list(saved_tensors(self.model).items()),
        )  # fmt: skip

    def _paths(self) -> str:
        """Which implementations update."""
        each = [f"{type(m).__name__}:{'fused' if m.param_groups[0].get('fused') else 'loop'}" for m in self._masters]
        return ", ".join(each)

    # -- binding -------------------------------------------------------------------------------------------

    def initial(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.initial`."""
        for parameter, array in zip(self._passes.parameters, parameters, strict=True):
            array[...] = as_array(parameter.contiguous())

    def initial_state(self, state: States, scalars: Mapping[int, Array]) -> None:
        """Copy the state that some optimizers make on construction (Adagrad)."""
        for index, (master, (spec, _)) in enumerate(zip(self._masters, self._states, strict=True)):
            if index in self._whole:
                continue
            for parameter, values in torch_optimizers.initial_state(master):
                number = self._numbers[id(parameter)]
                for name, array in state[number].items():
                    array[...] = as_array(values[name]).reshape(array.shape)
                row = [0.0 if name not in values else float(values[name]) for name in spec.scalars]
                scalars[number][: 1 + len(row)] = [1.0, *row]
            master.state.clear()

    def bind(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.bind`."""
        for parameter, array in zip(self._passes.parameters, parameters, strict=True):
            parameter.data = as_tensor(array, parameter.dtype)
        self._passes.forget()

    def state_tree(self, optimizer: int) -> tuple[Any, Mapping[str, Array]]:
        """See `Adapter.state_tree`."""
        return self._whole[optimizer].content()

    def bind_trees(self, trees: Mapping[int, Versions], averaged: Mapping[int, Array]) -> None:
        """See `Adapter.bind_trees`."""
        for index, versions in trees.items():
            self._whole[index].versions = versions
        for number, array in averaged.items():
            parameter = self._passes.parameters[number]
            self._trained[number], self._averaged[number] = parameter.data, as_tensor(array, parameter.dtype)

    def _compute_with(self, values: Mapping[int, Tensor]) -> None:
        """Compute with these parameters: those that are trained, or those that are evaluated instead."""
        for number, tensor in values.items():
            self._passes.parameters[number].data = tensor
        if values:
            self._passes.forget()

    def live_buffers(self) -> list[Array]:
        """See `Adapter.live_buffers`."""
        return [as_array(buffer) for _, buffer in self._passes.named_buffers()]

    # -- microbatches --------------------------------------------------------------------------------------

    def rehearse(self) -> None:
        """See `Adapter.rehearse`."""
        self._passes.rehearse()

    def seed(self, key: int) -> None:
        """See `Adapter.seed`."""
        self._passes.seed(key)

    def gradient_buffers(self, arrays: Mapping[int, Array]) -> list[Tensor | None]:
        """One microbatch's destination by parameter number; None for frozen ones."""
        return [torch.from_numpy(arrays[n]) if n in arrays else None for n in range(len(self._owners))]

    def gradient(self, batch: Any, samples: int, into: Sequence[Any], used: Array, add: bool = False) -> Measured:
        """See `Adapter.gradient`."""
        self._compute_with(self._trained)
        return self._passes.numbers([self._passes.gradient(batch, samples, into, used, add, self.on_gradient)])[0]

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> Measured:
        """See `Adapter.evaluate`."""
        self._compute_with(self._averaged)
        return self._passes.numbers([self._passes.evaluate(batch, samples, keep_outputs)])[0]

    @functools.cached_property
    def cutter(self) -> Cutter:
        """See `Adapter.cutter`."""
        return Cutter(self._passes)

    def fingerprint(self, device: str) -> Mapping[str, str]:
        """See `Adapter.fingerprint`."""
        place = devices.begun(device)
        devices.pin(place, self._job.precision)
        torch_optimizers.choose_on(place, self._masters, self._chosen)
        return {**devices.fingerprint(place), "optimizer": self._paths()}

    def device_failed(self, error: BaseException) -> DeviceFailed | None:
        """See `Adapter.device_failed`."""
        return device_errors.failed(error, self._passes.device)

    def replica(self, device: str) -> Replica:
        """See `Adapter.replica`."""
        place = devices.begun(device)
        if place.type != "cpu":
            self._check_elsewhere(device)
            torch_optimizers.choose_on(place, self._masters, self._chosen)
            self._passes = self._passes.moved(place)

        def master(index: int) -> Master | None:
            if index in self._whole:
                return None
            return Master(self._masters[index], self._states[index][1], self._numbers)

        def whole(index: int, region: Region, held: tuple[Tensor, Tensor], averaged: Mapping[int, Tensor]) -> Whole:
            self._averaged.update(averaged)
            self._trained.update({number: self._passes.parameters[number].data for number in averaged})
            made = self._whole[index], index, region, held, self._passes.parameters, averaged, self._begin_update
            return Whole(*made)

        made = Replica(Parts(self._job, self._description(), self._passes, self._compute_with, master, whole))
        if place.type != "cpu":
            made.rehearse()
        return made

    def _check_elsewhere(self, device: str) -> None:
        if self._whole:
            names = " and ".join(sorted({type(self._masters[index]).__name__ for index in self._whole}))
            raise UsageError(
                "optimizers that update the whole model at once keep their state in the host's memory; received "
                f"{names}, and device={device!r}. Use one of torch.optim's on devices, or train on CPUs."
            )

    # -- update --------------------------------------------------------------------------------------------

    def chunk_update(self, scratch: Scratch) -> ChunkUpdate:
        """See `Adapter.chunk_update`."""
        index = scratch.region.optimizer
        if index in self._whole:
            return WholeUpdate(self._whole[index], scratch, self._passes.parameters, self._averaged, self._begin_update)
        _, made_of = self._states[index]
        return TorchChunkUpdate(Work(self._masters[index], made_of, scratch, self._group_of))

    def _begin_update(self) -> int:
        self._compute_with(self._trained)
        self._passes.forget()
        self.seed(key(self._job.seed, "update", self._schedules.steps_done))
        return self._schedules.steps_done

    def advance_schedule(self) -> None:
        """See `Adapter.advance_schedule`."""
        self._schedules.advance()

    def advance_plateau(self, loss: float, watched: float) -> None:
        """See `Adapter.advance_plateau`."""
        self._schedules.advance_plateau(loss, watched)

    def learning_rate(self) -> float:
        """See `Adapter.learning_rate`."""
        return self._schedules.learning_rate()
