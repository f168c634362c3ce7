"""How toy samples become a microbatch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unisono.frameworks.protocol import DataFunctions


class Data(DataFunctions):
    """See `DataFunctions`."""

    def stack(self, column: Sequence[Any]) -> Any:
        return np.stack(column)
