"""A PyTorch model with its optimizers that one process owns: computed, exchanged and updated as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unisono.frameworks.lossrules import not_finite
from unisono.frameworks.protocol import Array, Group, Measured, ModelDescription, Pending, Values, regions_of
from unisono.frameworks.pytorch import devices
from unisono.frameworks.pytorch.determinism import NotDeterministicError
from unisono.frameworks.pytorch.passes import Passes
from unisono.frameworks.pytorch.replicas.device_errors import check_algorithms
from unisono.frameworks.pytorch.replicas.exchange import Exchange, tree_sum
from unisono.frameworks.pytorch.replicas.group import ReplicaGroup
from unisono.frameworks.pytorch.replicas.masters import Master
from unisono.frameworks.pytorch.replicas.norms import block_sums
from unisono.frameworks.pytorch.replicas.sums import PartialSums
from unisono.frameworks.pytorch.replicas.wholes import Whole
from unisono.frameworks.pytorch.rows import Row
from unisono.frameworks.pytorch.stages.travel import as_array, as_tensor
from unisono.gradients.exchanged import Shares
from unisono.gradients.norms import clip_coefficient, total_norm
from unisono.gradients.regions import Region
from unisono.gradients.tree import FoldStep, fold
from unisono.job import Job


@dataclass(frozen=True)
class Parts:
    """What a replica is made of.

    Attributes:
        job, description, passes: the adapter's.
        compute_with: makes the model compute with other parameters, by number, than it does.
        master: makes the update of an optimizer that keeps its state by parameter, by its number; None where it is one
            over the whole model.
        whole: makes that of one over the whole model.
    """

    job: Job
    description: ModelDescription
    passes: Passes
    compute_with: Callable[[Mapping[int, Tensor]], None]
    master: Callable[[int], Master | None]
    whole: Callable[[int, Region, tuple[Tensor, Tensor], Mapping[int, Tensor]], Whole]


class Replica:
    """See `unisono.frameworks.protocol.Replica`.

    Args:
        parts: see `Parts`.
    """

    def __init__(self, parts: Parts) -> None:
        self._job, self._passes, self._compute_with = parts.job, parts.passes, parts.compute_with
        description, device = parts.description, parts.passes.device
        self._regions, self._specs = regions_of(description), description.parameters
        parameters = self._passes.parameters

        values = [torch.zeros(r.length, dtype=getattr(torch, r.dtype), device=device) for r in self._regions]
        self._trained = _views(self._regions, values)
        for number, parameter in enumerate(parameters):
            place = self._trained.get(number)
            parameter.data = torch.empty_like(parameter.data) if place is None else place
        self._averaged: dict[int, Tensor] = {}
        self._masters: list[Master] = []
        self._wholes: list[Whole] = []
        self._looked_at: dict[int, Tensor] = {}
        """By region where an optimizer over the whole model looks for its gradient; others are given it."""
        for index, state in enumerate(description.states):
            master = parts.master(index)
            if master is not None:
                self._masters.append(master)
                continue
            (region,) = (region for region in self._regions if region.optimizer == index)
            trained = values[region.index]
            gradient = self._looked_at[region.index] = torch.zeros_like(trained)
            if state.averaged:
                self._averaged |= _views([region], [torch.zeros_like(trained)])
            self._wholes.append(parts.whole(index, region, (trained, gradient), self._averaged))
        self._buffers = [buffer.detach().clone() for _, buffer in self._passes.named_buffers()]
        self._sums = PartialSums(self._regions, len(parameters), self._buffers, device)
        self._used = np.zeros(max(len(parameters), 1), np.uint8)
        self._rows: list[Row] = []
        self._group: ReplicaGroup | None = None
        self._exchange: Exchange | _Alone | None = None
        self._step = self._total = 0

    # -- state -------------------------------------------------------------------------------------------------

    def load(self, values: Values, updates: int) -> None:
        """See `Replica.load`."""
        self._turn_to_trained()
        with torch.no_grad():
            for parameter, array in zip(self._passes.parameters, values.parameters(), strict=True):
                parameter.copy_(as_tensor(array, parameter.dtype))
            for number, array in values.averaged().items():
                self._averaged[number].copy_(as_tensor(array, self._averaged[number].dtype))
            for buffer, array in zip(self._buffers, values.buffers(updates), strict=True):
                buffer.copy_(as_tensor(array, buffer.dtype))
        for each in self._optimizers():
            each.load(values, updates)
        self._passes.forget()

    def store(self, values: Values, updates: int) -> None:
        """See `Replica.store`."""
        for found, array in zip(self.parameters(), values.parameters(), strict=True):
            array[...] = found
        for number, array in values.averaged().items():
            array[...] = as_array(self._averaged[number].cpu())
        for buffer, array in zip(self._buffers, values.buffers(updates), strict=True):
            array[...] = as_array(buffer.cpu())
        for each in self._optimizers():
            each.store(values, updates)

    def parameters(self) -> list[Array]:
        """See `Replica.parameters`."""
        self._turn_to_trained()
        return [as_array(parameter.detach().cpu()) for parameter in self._passes.parameters]

    def _optimizers(self) -> list[Master | Whole]:
        return [*self._masters, *self._wholes]

    def _turn_to_trained(self) -> None:
        self._compute_with({number: self._trained[number] for number in self._averaged})

    # -- microbatches ------------------------------------------------------------------------------------------

    def rehearse(self) -> None:
        """Compute a microbatch that nothing is kept of: what the device does for the first time, it does now.

        Raises:
            NotDeterministicError: an operation has no algorithm there that gives the same bits each time.
        """
        (first,) = fold(0, 1, 1).steps
        self._passes.seed(0)
        try:
            self._passes.gradient(self._passes.example(), 1, self._sums.destination(first), self._used, False, None)
        except NotDeterministicError:
            raise
        except Exception:  # the first microbatch meets it again, and has a place to tell
            return

    def begin(self, step: int, total: int) -> None:
        """See `Replica.begin`."""
        self._step, self._total, self._exchange, self._rows = step, total, None, []
        self._used[:] = 0
        self._turn_to_trained()

    def gradient(self, batch: Any, samples: int, step: FoldStep) -> None:
        """See `Replica.gradient`."""
        self._load_buffers()
        row = self._passes.gradient(batch, samples, self._sums.destination(step), self._used, False, None)
        self._rows.append(row)
        self._sums.keep_buffers(step, [buffer for _, buffer in self._passes.named_buffers()], self._buffers, samples)
        self._sums.fold(step)

    def evaluate(self, batch: Any, samples: int, keep_outputs: bool) -> None:
        """See `Replica.evaluate`."""
        self._load_buffers()
        self._compute_with(self._averaged)
        self._rows.append(self._passes.evaluate(batch, samples, keep_outputs))

    def _load_buffers(self) -> None:
        with torch.no_grad():
            for (_, live), held in zip(self._passes.named_buffers(), self._buffers, strict=True):
                live.copy_(held)

    def rows(self) -> list[Measured]:
        """See `Replica.rows`."""
        rows, self._rows = self._rows, []
        numbers = self._passes.numbers(rows)
        check_algorithms(self._passes.device)
        return numbers

    def used(self) -> Array:
        """See `Replica.used`."""
        return self._used

    # -- the group ---------------------------------------------------------------------------------------------

    def join(self, group: Group | None) -> None:
        """See `Replica.join`."""
        device = self._passes.device
        self._group = None if group is None or group.ranks == 1 else ReplicaGroup(group, device, devices.gpu(device))

    def leave(self) -> None:
        """See `Replica.leave`."""
        if self._group is not None:
            self._group.leave()
        self._group, self._exchange, self._rows = None, None, []

    def exchange(self, boundaries: Sequence[int]) -> Pending:
        """See `Replica.exchange`."""
        group, shares = self._group, Shares.of(boundaries, self._total)
        rank = 0 if group is None else group.rank
        nodes = self._sums.nodes(range(boundaries[rank], boundaries[rank + 1]), shares, rank)
        if group is None:
            self._exchange = _Alone([tree_sum(shares.tree, each.__getitem__) for each in nodes])
        else:
            firsts = [self._sums.firsts[number] for number in sorted(self._sums.firsts)]
            self._exchange = Exchange(group, shares, nodes, self._sums.left, firsts)
        return self._exchange

    # -- update ------------------------------------------------------------------------------------------------

    def update(self, weight: float, samples: int, used: Array) -> float | None:
        """See `Replica.update`."""
        if self._exchange is None:
            self.exchange((0, self._total))
        assert self._exchange is not None
        sums, self._exchange = self._exchange.sums, None
        self._turn_to_trained()
        if weight == 0:
            for whole in self._wholes:
                whole.repeat(self._step)
            return 0.0 if self._job.waits_for_norms else None
        gradients = self._divided(sums, weight)
        views = _views(self._regions, gradients)
        norm = self._norm(gradients, views)
        if norm is not None and self._job.clip_norm is not None:
            factor = clip_coefficient(norm, self._job.clip_norm)
            for each in gradients if factor != 1.0 else ():
                each.mul_(each.new_full((), factor))
        found = {number: view for number, view in views.items() if used[number]}
        for master in self._masters:
            master.step(found)
        for whole in self._wholes:
            whole.step(used)
        if self._buffers:
            self._buffers = self._sums.buffers(sums[-1], self._buffers, samples)
        self._passes.forget()
        if self._passes.device.type != "cpu":
            torch.get_device_module(self._passes.device).synchronize()
        return norm

    def _divided(self, sums: Sequence[Tensor], weight: float) -> list[Tensor]:
        """Each region's gradient of the round, in place of its sum: memory of a device is dear."""
        gradients = []
        for region, total in zip(self._regions, sums, strict=False):  # buffers' sums come last
            gradient = self._looked_at.get(region.index, total)
            gradients.append(torch.div(total, total.new_full((), weight), out=gradient))
        return gradients

    def _norm(self, gradients: Sequence[Tensor], views: Mapping[int, Tensor]) -> float | None:
        """The norm of the gradients, where the job waits for it. One transfer from the device.

        Args:
            gradients: by region.
            views: by parameter number.

        Raises:
            JobError: one is not finite.
        """
        finite = torch.stack([each.isfinite().all() for each in gradients]).to(torch.float64)
        each = [views[number].reshape(-1) for number in sorted(views)]
        norms = [block_sums(values) for values in each if values.numel()] if self._job.waits_for_norms else []
        partials = torch.cat([finite, *norms]).cpu().numpy()
        if not partials[: len(finite)].all():
            for number in sorted(views):
                if not bool(views[number].isfinite().all()):
                    raise not_finite(self._specs[number].name, views[number].cpu().numpy())
        return total_norm(partials[len(finite) :]) if self._job.waits_for_norms else None


@dataclass
class _Alone:
    """See `Pending`: there is nobody to exchange with."""

    sums: list[Tensor]

    def done(self) -> bool:
        """See `Pending.done`."""
        return True


def _views(regions: Sequence[Region], vectors: Sequence[Tensor]) -> dict[int, Tensor]:
    """Each parameter's elements in its shape, by number."""

    def part(vector: Tensor, start: int, end: int) -> Tensor:
        if vector.device.type != "cpu":
            return vector[start:end]
        return as_tensor(as_array(vector)[start:end], vector.dtype)  # not the others' too, for whoever keeps what it is

    return {
        parameter.number: part(vector, parameter.offset, parameter.end).view(parameter.shape)
        for region, vector in zip(regions, vectors, strict=True) for parameter in region.parameters
    }  # fmt: skip
