"""A PyTorch job in one process: the model bound to shared memory, gradients of microbatches, evaluation."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unisono.errors import JobError, UsageError
from unisono.frameworks import protocol
from unisono.frameworks.leaving import leave
from unisono.frameworks.lossrules import check_loss, no_graph
from unisono.frameworks.protocol import (
    Array,
    ChunkUpdate,
    GradientInParts,
    Measured,
    ModelDescription,
    Source,
    Stage,
    StateSpec,
    TensorSpec,
    Unit,
)
from unisono.frameworks.pytorch import determinism, hooks
from unisono.frameworks.pytorch import optimizers as torch_optimizers
from unisono.frameworks.pytorch.attributes import shapes, watched
from unisono.frameworks.pytorch.chunks import TorchChunkUpdate
from unisono.frameworks.pytorch.data import seed_everything
from unisono.frameworks.pytorch.modes import Modes, without_gradients
from unisono.frameworks.pytorch.plateau import check_followed, follows_best
from unisono.frameworks.pytorch.saving import restore, saved_tensors
from unisono.frameworks.pytorch.stages.cutter import Cutter
from unisono.frameworks.pytorch.stages.operations import BufferPlace
from unisono.frameworks.pytorch.stages.parts import Parts
from unisono.frameworks.pytorch.stages.travel import as_array, as_tensor
from unisono.frameworks.pytorch.stages.trees import leaves
from unisono.frameworks.pytorch.watching import Watch, check_buffers, check_memory
from unisono.frameworks.pytorch.whole import WholeUpdate, kept_whole
from unisono.gradients.regions import Chunk, Kind, Region
from unisono.job import Job
from unisono.memory.versions import Versions
from unisono.partition.keys import key

TRAINED_DTYPES = ("float32", "float64")


def dtype_name(tensor: torch.Tensor) -> str:
    """NumPy's name of the dtype ("bfloat16" for the one that NumPy lacks)."""
    return str(tensor.dtype).removeprefix("torch.")


def _tensors(nest: Any) -> list[torch.Tensor]:
    return [leaf for _, leaf in leaves(nest) if isinstance(leaf, torch.Tensor)]


class Adapter(protocol.Adapter):
    """See `unisono.frameworks.protocol.Adapter`."""

    can_add = True

    def __init__(self, job: Job, model: Any, steps: int, example: Callable[[], Any]) -> None:
        self._job, self._example = job, example
        if not isinstance(model, torch.nn.Module):
            raise UsageError(
                f"job.model must return a torch.nn.Module; received {type(model).__name__}. Write model=Net or "
                "model=lambda: Net(...)."
            )
        for name in ("loss", "optimizer"):
            if not callable(getattr(job, name)):
                raise UsageError(f"job.{name} of a PyTorch job must be a function; received {getattr(job, name)!r}.")
        self.model, self._modes = model, Modes(model)
        self._named = list(model.named_parameters())
        check_buffers(model)
        check_memory(model, self._named)
        self._numbers = {id(parameter): number for number, (_, parameter) in enumerate(self._named)}
        self._masters = torch_optimizers.prepare(hooks.made(job.optimizer, model))
        self._owners, self._group_of = self._ownership()
        self._kinds: tuple[Kind, ...] = tuple(torch_optimizers.kind_of(master) for master in self._masters)
        self._kept = kept_whole(self._masters, self._kinds, model)
        self._states = tuple(
            (StateSpec({}, (), tree=True, averaged=self._kept[index].averages), {}) if index in self._kept
            else torch_optimizers.state_of(master, kind, self._numbers)
            for index, (master, kind) in enumerate(zip(self._masters, self._kinds, strict=True))
        )  # fmt: skip
        self._buffers = [
            (name, module, leaf)
            for prefix, module in model.named_modules()
            for leaf, buffer in module.named_buffers(recurse=False)
            for name in [f"{prefix}.{leaf}" if prefix else leaf]
        ]
        self._settings = tuple(torch_optimizers.plain_settings(master) for master in self._masters)
        self._watches: dict[frozenset[int], Watch] = {}
        self._schedules = self._make_schedules(steps)
        self._steps_done = 0
        self._averaged: dict[int, torch.Tensor] = {}
        self._trained: dict[int, torch.Tensor] = {}
        self._into: list[torch.Tensor | None] = [None] * len(self._named)
        self._used = np.zeros(len(self._named), dtype=np.uint8)
        self._adding = np.zeros(len(self._named), dtype=np.uint8)
        self._told: list[Callable[[int], None]] = []
        self._attributes = watched(model, job.loss)
        self._seed_again = functools.partial(seed_everything, 0)
        self._hook()

    @staticmethod
    def restored(job: Job, model: torch.nn.Module, path: Path, example: Callable[[], Any]) -> torch.nn.Module:
        """See `Adapter.restored`."""
        restore(model, path)
        return model

    @staticmethod
    def answering(model: torch.nn.Module) -> contextlib.AbstractContextManager[Any]:
        """See `Adapter.answering`."""
        model.eval()
        return torch.inference_mode()

    # -- description ---------------------------------------------------------------------------------------

    def _ownership(self) -> tuple[tuple[int | None, ...], dict[int, int]]:
        owners: list[int | None] = [None] * len(self._named)
        group_of = {}
        for index, master in enumerate(self._masters):
            for group_index, group in enumerate(master.param_groups):
                for parameter in group["params"]:
                    number = self._numbers.get(id(parameter))
                    if number is None:
                        raise UsageError(
                            "job.optimizer may only hold parameters of the model it is given; it holds one that "
                            "model.named_parameters() does not list. Register it in the model."
                        )
                    if not parameter.requires_grad:
                        continue
                    if dtype_name(parameter) not in TRAINED_DTYPES:
                        raise UsageError(
                            f"trained parameters are float32 or float64; {self._named[number][0]!r} is "
                            f"{dtype_name(parameter)}. Keep it float32 and set precision='bfloat16'."
                        )
                    owners[number], group_of[number] = index, group_index
        if not group_of:
            raise UsageError("nothing to train: job.optimizer holds no parameter with requires_grad=True.")
        for (_, parameter), owner in zip(self._named, owners, strict=True):
            if owner is None:
                parameter.requires_grad_(False)
        for master in self._masters:
            for group in master.param_groups:
                group["params"] = [p for p in group["params"] if p.requires_grad]
        return tuple(owners), group_of

    def describe(self) -> ModelDescription:
        """See `Adapter.describe`."""
        for kept in self._kept.values():
            kept.probe()
        buffers = [module._buffers[leaf] for _, module, leaf in self._buffers]
        places: dict[int, tuple[str, int]] = {}
        for number, owner in enumerate(self._owners):
            places[id(self._named[number][1])] = ("frozen" if owner is None else "parameter", number)
        places.update({id(buffer): ("buffer", index) for index, buffer in enumerate(buffers)})
        saved = []
        for name, tensor in saved_tensors(self.model).items():
            kind, index = places[id(tensor)]
            saved.append(Source(name, kind, index))  # type: ignore[arg-type]
        paths = [f"{type(m).__name__}:{'fused' if m.param_groups[0].get('fused') else 'loop'}" for m in self._masters]
        return ModelDescription(
            parameters=tuple(TensorSpec(n, tuple(p.shape), dtype_name(p)) for n, p in self._named),
            owners=self._owners,
            kinds=self._kinds,
            states=tuple(spec for spec, _ in self._states),
            buffers=tuple(
                TensorSpec(name, tuple(buffer.shape), dtype_name(buffer))
                for (name, _, _), buffer in zip(self._buffers, buffers, strict=True)
                if buffer is not None
            ),
            saved=tuple(saved),
            optimizers=self._settings,
            fingerprint={
                "framework": f"torch {torch.__version__}",
                "numpy": np.__version__,
                "cpu_capability": torch.backends.cpu.get_cpu_capability(),
                "device": "cpu",
                "precision": self._job.precision,
                "optimizer": ", ".join(paths),
            },
        )

    # -- binding -------------------------------------------------------------------------------------------

    def initial(self, parameters: Sequence[Array]) -> None:
        """See `Adapter.initial`."""
        for (_, parameter), array in zip(self._named, parameters, strict=True):
            array[...] = as_array(parameter.contiguous())

    def initial_state(self, state: Mapping[int, Mapping[str, Array]], scalars: Mapping[int, Array]) -> None:
        """Copy the state that some optimizers make on construction (Adagrad)."""
        for index, (master, (spec, _)) in enumerate(zip(self._masters, self._states, strict=True)):
            if index in self._kept:
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
        for (_, parameter), array in zip(self._named, parameters, strict=True):
            parameter.data = as_tensor(array, parameter.dtype)
        self._forget()

    def _forget(self) -> None:
        """What the parameters are may be another from here on."""
        for watch in self._watches.values():
            watch.forget()

    def state_tree(self, optimizer: int) -> tuple[Any, Mapping[str, Array]]:
        """See `Adapter.state_tree`."""
        return self._kept[optimizer].content()

    def bind_trees(self, trees: Mapping[int, Versions], averaged: Mapping[int, Array]) -> None:
        """See `Adapter.bind_trees`."""
        for index, versions in trees.items():
            self._kept[index].versions = versions
        for number, array in averaged.items():
            parameter = self._named[number][1]
            self._trained[number], self._averaged[number] = parameter.data, as_tensor(array, parameter.dtype)

    def _face(self, values: Mapping[int, torch.Tensor]) -> None:
        """Compute with these parameters: those that are trained, or those that are evaluated instead."""
        for number, tensor in values.items():
            self._named[number][1].data = tensor
        if values:
            self._forget()

    def _begin_update(self) -> int:
        self._face(self._trained)
        self._forget()
        self.seed(key(self._job.seed, "update", self._steps_done))
        return self._steps_done

    def rehearse(self) -> None:
        """See `Adapter.rehearse`."""
        with contextlib.suppress(Exception):
            inputs, targets = self._example()
            self._modes.train()
            self.seed(0)
            with self._autocast():
                total, _ = self._loss(self._forward(inputs), targets, 1)
            trained = [parameter for _, parameter in self._named if parameter.requires_grad]
            torch.autograd.grad(total, trained, allow_unused=True)

    def seed(self, key: int) -> None:
        """See `Adapter.seed`."""
        self._seed_again = functools.partial(seed_everything, key)
        self._seed_again()

    def live_buffers(self) -> list[Array]:
        """See `Adapter.live_buffers`."""
        held = [module._buffers[leaf] for _, module, leaf in self._buffers]
        return [as_array(buffer) for buffer in held if buffer is not None]

    # -- microbatches --------------------------------------------------------------------------------------

    def _hook(self) -> None:
        """Send each gradient to the buffer of the microbatch at hand as soon as autograd has it.

        Copying beats letting autograd add into a zeroed view: half the bytes, and they are still in the cache. Where
        the buffer holds the sum that this microbatch is added to next, adding at once saves writing and reading it.
        """
        for number, (_, parameter) in enumerate(self._named):
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._receiver(number))  # type: ignore[no-untyped-call]

    def _receiver(self, number: int) -> Callable[[torch.Tensor], None]:
        # Not `self`: a parameter whose hook holds the parameter is never freed.
        destinations, used, adding, told = self._into, self._used, self._adding, self._told

        def receive(parameter: torch.Tensor) -> None:
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
            if told:
                told[0](number)

        return receive

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._job.precision == "bfloat16":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _forward(self, inputs: Any) -> Any:
        if self._job.stages is not None:
            return functools.reduce(lambda value, piece: piece(self.model, value), self._job.stages, inputs)
        if self._job.forward is not None:
            return self._job.forward(self.model, inputs)
        if isinstance(inputs, tuple) and not hasattr(inputs, "_fields"):  # a named tuple is one thing
            return self.model(*inputs)
        if isinstance(inputs, Mapping):
            return self.model(**inputs)
        return self.model(inputs)

    def _loss(self, outputs: Any, targets: Any, samples: int) -> tuple[torch.Tensor, float]:
        result = self._job.loss(outputs, targets)
        if isinstance(result, tuple):
            total, weight = result
            return torch.as_tensor(total), float(weight)
        if not isinstance(result, torch.Tensor) or result.numel() != 1:
            shape = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise JobError(
                f"job.loss must return one number (the mean over samples) or (total, weight); received {shape}. "
                "Use reduction='mean', or return (losses.sum(), losses.numel())."
            )
        return result * samples, float(samples)

    def _metrics(self, functions: Mapping[str, Any], outputs: Any, targets: Any) -> tuple[tuple[float, float], ...]:
        pairs = []
        for metric in functions.values():
            total, count = metric(outputs, targets)
            pairs.append((float(total), float(count)))
        return tuple(pairs)

    def gradient(self, batch: Any, samples: int, into: Sequence[Any], used: Array, add: bool = False) -> Measured:
        """See `Adapter.gradient`."""
        inputs, targets = batch
        self._modes.train()
        self._face(self._trained)
        self._into[:] = into
        self._used[:], self._adding[:] = 0, add
        self._told[:] = [self.on_gradient] if self.on_gradient else []
        with self._explained(inputs), self._autocast():
            outputs = self._forward(inputs)
            total, weight = self._finite_loss(outputs, targets, samples)
        if total.requires_grad:
            with determinism.explained():
                total.backward()  # type: ignore[no-untyped-call]
        used |= self._used
        for flag, tensor in zip(self._used, self._into, strict=True):
            if tensor is not None and not flag:
                leave(0, tensor.numpy(), add)
        self._into[:] = [None] * len(self._into)
        return self._measured(total, weight, outputs, targets)

    @contextlib.contextmanager
    def _explained(self, inputs: Any, elsewhere: frozenset[int] = frozenset()) -> Iterator[None]:
        if elsewhere not in self._watches:
            named = [pair for number, pair in enumerate(self._named) if number not in elsewhere]
            self._watches[elsewhere] = Watch(self.model, named)
        watch = self._watches[elsewhere]
        before = watch.look()
        try:
            with self._attributes.one_pass(lambda: shapes(inputs)), determinism.explained():
                yield
        except Exception as error:
            watch.check(before)
            if not isinstance(error, ValueError):
                raise
            if "Expected more than 1 value per channel" not in str(error):
                raise
            raise JobError(
                "BatchNorm needs at least two samples in a microbatch; this one has a single one. "
                "Set drop_last=True, or choose fewer microbatches so that each has more samples."
            ) from error
        watch.check(before)

    def _finite_loss(self, outputs: Any, targets: Any, samples: int) -> tuple[torch.Tensor, float]:
        total, weight = self._loss(outputs, targets, samples)
        check_loss(total.item(), weight, lambda: all(bool(t.isfinite().all()) for t in _tensors(outputs)))
        if weight and not total.requires_grad:
            raise no_graph(any(tensor.requires_grad for tensor in _tensors(outputs)))
        return total, weight

    def _measured(self, total: torch.Tensor, weight: float, outputs: Any, targets: Any) -> Measured:
        with torch.no_grad():
            return Measured(total.item(), weight, self._metrics(self._job.training_metrics, outputs, targets))

    # -- stages --------------------------------------------------------------------------------------------

    @functools.cached_property
    def _cutter(self) -> Cutter:
        trained = (number for number, owner in enumerate(self._owners) if owner is not None)
        return Cutter(
            Parts(
                job=self._job,
                model=self.model,
                modes=self._modes,
                parameters=[parameter for _, parameter in self._named],
                trained=frozenset(trained),
                buffers=[BufferPlace(module._buffers, leaf) for _, module, leaf in self._buffers],
                forward=self._forward,
                autocast=self._autocast,
                explained=self._explained,
                loss=self._finite_loss,
                measured=self._measured,
                into=self._into,
                used=self._used,
                adding=self._adding,
                example=self._example,
            )
        )

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        """See `Adapter.units`."""
        return self._cutter.units(batch, samples)

    def stage(self, cuts: tuple[int, ...], index: int, recompute: bool) -> Stage:
        """See `Adapter.stage`."""
        return self._cutter.stage(cuts, index, recompute)

    def gradient_buffers(self, arrays: Mapping[int, Array]) -> list[torch.Tensor | None]:
        """One microbatch's destination by parameter number; None for frozen ones."""
        return [torch.from_numpy(arrays[n]) if n in arrays else None for n in range(len(self._named))]

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> Measured:
        """See `Adapter.evaluate`."""
        inputs, targets = batch
        self._modes.evaluate()
        self._face(self._averaged)
        with self._explained(inputs), self._autocast():
            outputs, total, weight = without_gradients(lambda: self._answer(inputs, targets, samples), self._seed_again)
            with torch.no_grad():
                metrics = self._metrics(self._job.metric_functions, outputs, targets)
        return Measured(total.item(), weight, metrics, (outputs, targets) if keep_outputs else None)

    def _answer(self, inputs: Any, targets: Any, samples: int) -> tuple[Any, torch.Tensor, float]:
        """What metrics see, and the loss."""
        outputs = self._forward(inputs)
        total, weight = self._loss(outputs, targets, samples)
        return outputs if self._job.predict is None else self._job.predict(self.model, inputs), total, weight

    # -- update --------------------------------------------------------------------------------------------

    def chunk_update(
        self,
        region: Region,
        chunk: Chunk,
        parameters: Array,
        gradients: Array,
        state: Mapping[int, Mapping[str, Array]],
    ) -> ChunkUpdate:
        """See `Adapter.chunk_update`."""
        if region.optimizer in self._kept:
            parameters_, kept = [parameter for _, parameter in self._named], self._kept[region.optimizer]
            return WholeUpdate(kept, region, chunk, gradients, parameters_, self._averaged, self._begin_update)
        return TorchChunkUpdate(
            self._masters[region.optimizer],
            self._states[region.optimizer],
            region,
            chunk,
            (parameters, gradients, state),
            self._group_of,
        )

    def _make_schedules(self, steps: int) -> list[Any]:
        if self._job.schedule is None:
            return []
        for master in self._masters:
            master._opt_called = True  # the clones step, not the master
        with self._scheduling():
            schedules = [self._job.schedule(master, steps) for master in self._masters]
        check_followed(schedules, self._job)
        for master in self._masters:
            master._opt_called = True
        return schedules

    @contextlib.contextmanager
    def _scheduling(self) -> Iterator[None]:
        """What changes in an optimizer's settings here is its schedule's."""
        before = {index: kept.settings() for index, kept in self._kept.items()}
        yield
        for index, kept in self._kept.items():
            kept.scheduled(before[index])
        if self._job.schedule is not None:
            self._forget()

    def advance_schedule(self) -> None:
        """See `Adapter.advance_schedule`."""
        self._steps_done += 1
        with self._scheduling():
            for schedule in self._schedules:
                if not isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
                    schedule.step()

    def advance_plateau(self, loss: float, watched: float) -> None:
        """See `Adapter.advance_plateau`."""
        with self._scheduling():
            for schedule in self._schedules:
                if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
                    schedule.step(watched if follows_best(schedule, self._job) else loss)

    def learning_rate(self) -> float:
        """See `Adapter.learning_rate`."""
        if 0 in self._kept:
            return self._kept[0].learning_rate(self._steps_done)
        return float(self._masters[0].param_groups[0]["lr"])
