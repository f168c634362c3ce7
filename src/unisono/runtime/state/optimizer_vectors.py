"""Where the optimizer's state lies: per region and key one flat vector, congruent with the parameters if it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unisono.frameworks.protocol import ModelDescription
from unisono.gradients.regions import Chunk, Parameter, Region


@dataclass(frozen=True)
class StateVector:
    """One state key of one region: a flat vector, congruent with the parameters when elementwise.

    Attributes:
        area: of the segment.
        key: the state's.
        dtype, length: the vector's.
        places: where each parameter's state lies in it.
    """

    area: str
    key: str
    dtype: str
    length: int
    places: Mapping[int, Parameter]


def vectors_of(region: Region, description: ModelDescription) -> tuple[StateVector, ...]:
    """The vectors of a region, one a key of its optimizer's state."""
    vectors = []
    for key, shapes in description.states[region.optimizer].vectors.items():
        held = [parameter for parameter in region.parameters if parameter.number in shapes]
        if not held:
            continue
        dtype, packed = shapes[held[0].number][1], region
        if len(held) < len(region.parameters) or any(shapes[p.number][0] != p.shape for p in held):
            packed = Region.pack(0, dtype, 0, "tensor", [(p.number, p.name, shapes[p.number][0]) for p in held])
        places = {parameter.number: parameter for parameter in packed.parameters}
        vectors.append(StateVector(f"state/{region.index}/{key}", key, dtype, packed.length, places))
    return tuple(vectors)


def vector_span(vector: StateVector, region: Region, chunk: Chunk) -> slice:
    """The part of a state vector that belongs to a chunk."""
    if region.kind == "elementwise":
        return slice(chunk.start, chunk.stop)
    held = [vector.places[p.parameter.number] for p in chunk.pieces if p.parameter.number in vector.places]
    return slice(held[0].offset, held[-1].end) if held else slice(0, 0)
