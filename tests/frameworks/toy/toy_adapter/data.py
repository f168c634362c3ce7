"""How toy samples become a microbatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unisono.frameworks.protocol import DataFunctions


class Data(DataFunctions):
    """See `DataFunctions`."""

    def stack(self, samples: Sequence[Any]) -> tuple[Any, Any]:
        inputs, targets = (np.stack(column) for column in zip(*samples, strict=True))
        return inputs, targets
