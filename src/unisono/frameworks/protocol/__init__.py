"""What the core asks of a framework: small protocols, in arrays and plain values.

An adapter's class is an `Adapter`: a `Model`, an `Optimizer` and `Stages`. Its `data.py` has a class `Data`, which is
`DataFunctions`. Most methods have defaults that do nothing, or say that the framework does without.
"""

from typing import Protocol

from unisono.frameworks.protocol.data import DataFunctions
from unisono.frameworks.protocol.description import ModelDescription, Source, StateSpec, TensorSpec, regions_of
from unisono.frameworks.protocol.measured import Measured
from unisono.frameworks.protocol.model import GradientInParts, Model
from unisono.frameworks.protocol.optimizer import ChunkUpdate, Optimizer
from unisono.frameworks.protocol.replica import ExchangeLost, Group, Pending, Replica, Values
from unisono.frameworks.protocol.stages import Crossing, Indices, Passed, Stage, Stages, Unit
from unisono.frameworks.scratch import Scratch, States
from unisono.values.arrays import Array

__all__ = [
    "Adapter",
    "Array",
    "ChunkUpdate",
    "Crossing",
    "DataFunctions",
    "ExchangeLost",
    "GradientInParts",
    "Group",
    "Indices",
    "Measured",
    "ModelDescription",
    "Passed",
    "Pending",
    "Replica",
    "Scratch",
    "Source",
    "Stage",
    "StateSpec",
    "States",
    "TensorSpec",
    "Unit",
    "Values",
    "regions_of",
]


class Adapter(Model, Optimizer, Stages, Protocol):
    """A job's model with its optimizers in its framework, in one process."""
