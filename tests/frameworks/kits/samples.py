"""The data of every kit: NumPy arrays, so that each framework reads the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

SAMPLES, FEATURES, CLASSES = 100, 20, 5
Pair = tuple[Any, Any]


def arrays(samples: int = SAMPLES, seed: int = 1) -> Pair:
    """(inputs float32 (samples, 20), targets int64 (samples,)) that a small model can learn."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, CLASSES, samples)
    centres = np.random.default_rng(0).normal(size=(CLASSES, FEATURES))
    return (centres[targets] + generator.normal(size=(samples, FEATURES))).astype("float32"), targets


class Pairs:
    """(inputs, target) by index."""

    def __init__(self, samples: int = SAMPLES, seed: int = 1) -> None:
        self.inputs, self.targets = arrays(samples, seed)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Pair:
        return self.inputs[index], self.targets[index]
