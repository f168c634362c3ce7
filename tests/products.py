"""A model of four factors in NumPy, cut where one likes: what the runtime asks of an adapter's stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from unisono.frameworks.protocol import Array, Crossing, Measured, ModelDescription, Passed, StateSpec, TensorSpec, Unit
from unisono.memory.segment import Segment
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import Shape, host_layout

FACTORS = (2.0, 3.0, 5.0, 7.0)
DESCRIPTION = ModelDescription(
    parameters=tuple(TensorSpec(f"factors.{n}", (1,), "float32") for n in range(4)), owners=(0,) * 4,
    kinds=("elementwise",), states=(StateSpec({}, ()),), buffers=(TensorSpec("seen", (1,), "float32"),), saved=(),
    optimizers=({},), fingerprint={},
)  # fmt: skip


def shape(stages: int, pipes: int, microbatches: int, object_metrics: bool = False) -> Shape:
    return Shape(
        slots=stages * pipes, most=stages * pipes, microbatches=microbatches, metrics=1,
        evaluation_times=0, object_metrics=object_metrics, loaders=1, stages=stages,
    )  # fmt: skip


def made(description: ModelDescription = DESCRIPTION) -> HostState:
    """The shared state of a host of two pipes."""
    layout = host_layout(description, shape(1, 2, 4))
    return HostState(layout, Segment.create(layout.segment))


@contextmanager
def host_state(stages: int, pipes: int, microbatches: int, object_metrics: bool = False) -> Iterator[HostState]:
    """A host's shared state for the product, given back afterwards."""
    layout = host_layout(DESCRIPTION, shape(stages, pipes, microbatches, object_metrics))
    state = HostState(layout, Segment.create(layout.segment))
    try:
        yield state
    finally:
        state.segment.close()


@dataclass
class Product:
    """y = x · Πf; its stages can be made to lie about something. Its buffer counts the first stage's forward passes."""

    can_add: ClassVar[bool] = True
    lie: str = ""
    activation_bytes: int = 8
    seen: Array = field(default_factory=lambda: np.zeros(1, np.float32))

    def units(self, batch: Any, samples: int) -> tuple[Unit, ...]:
        return tuple(Unit(f"factors.{n}", (n,), (), 1e-3, 1e-3, self.activation_bytes, 4) for n in range(4))

    def stage(self, cuts: tuple[int, ...], index: int, recompute: bool) -> ProductStage:
        return ProductStage(self, cuts, index)

    def gradient_buffers(self, arrays: Mapping[int, Array]) -> Mapping[int, Array]:
        return arrays

    def gradient(self, batch: float, samples: int, into: Mapping[int, Array], used: Array) -> Measured:
        whole = self.stage((0, 4), 0, False)
        passed = whole.forward(batch, samples, Crossing())
        whole.backward(passed.kept, Crossing(), into, used)
        assert passed.measured is not None
        return passed.measured

    def live_buffers(self) -> list[Array]:
        return [self.seen]

    def load_buffers(self, values: Sequence[Array]) -> None:
        self.seen[...] = values[0]

    def seed(self, key: int) -> None: ...


class ProductStage:
    """Stage `index` of the product."""

    def __init__(self, model: Product, cuts: tuple[int, ...], index: int) -> None:
        self.model, self.parameters = model, tuple(range(cuts[index], cuts[index + 1]))
        self.first, self.last = index == 0, index == len(cuts) - 2
        self.buffers = (0,) if self.first else ()
        self.lie = model.lie if self.last and not self.first else ""

    def forward(self, batch: float, samples: int, received: Crossing) -> Passed:
        x = np.float32(batch) if self.first else received.arrays[0][0]  # type: ignore[index]
        y = np.float32(x * np.prod([FACTORS[n] for n in self.parameters], dtype=np.float32))
        self.model.seen += np.float32(self.first) + np.float32(self.lie == "the buffer 'seen'")
        if not self.last:
            return Passed(x, Crossing((np.array([y]),)))
        loss = float(y) + (self.lie == "the loss")
        return Passed(x, Crossing(), Measured(loss, 1.0, ((1.0 + (self.lie == "a metric"), 1.0),)))

    def backward(
        self, kept: float, received: Crossing, into: Mapping[int, Array], used: Array, add: bool = False
    ) -> Crossing:
        dy = np.float32(1) if self.last else received.arrays[0][0]  # type: ignore[index]
        whole = np.prod([FACTORS[n] for n in self.parameters], dtype=np.float32)
        for n in self.parameters:
            found = dy * kept * whole / np.float32(FACTORS[n]) + (self.lie == f"the gradient of 'factors.{n}'")
            into[n][:] = into[n] + found if add else found
            used[n] = 1
        return Crossing((np.array([dy * whole], np.float32),))
