"""What an array is, wherever its type is not said more exactly."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
