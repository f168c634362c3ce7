"""Saved values go into the model that they were saved from."""

from __future__ import annotations

import numpy as np
import pytest

from unisono.errors import UsageError
from unisono.frameworks.jobs import saved_value

VALUES = {"w": np.zeros((2, 3))}


def test_what_fits_is_given() -> None:
    assert saved_value(VALUES, "w", [2, 3]) is VALUES["w"]
    assert saved_value(VALUES, "w", None) is VALUES["w"]


@pytest.mark.parametrize(("name", "shape", "text"), [
    ("w", (3, 2), r"'w' is \[3, 2\] here and \[2, 3\] in the file"),
    ("w", (), r"'w' is \[\] here and \[2, 3\] in the file"),
    ("v", (2, 3), r"'v' is \[2, 3\] here and nothing in the file"),
    ("v", None, "'v' is a tensor here and nothing in the file"),
])  # fmt: skip
def test_what_does_not_is_named(name: str, shape: tuple[int, ...] | None, text: str) -> None:
    with pytest.raises(UsageError, match=f"saved parameters must fit the job's model; {text}. Use the job"):
        saved_value(VALUES, name, shape)
