"""What is restored into a host's shared state."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from products import DESCRIPTION, made
from unisono.errors import UsageError
from unisono.frameworks.protocol import Source


def test_saved_values_of_another_type_or_shape_are_named() -> None:
    state = made(replace(DESCRIPTION, saved=(Source("w", "parameter", 0),)))
    saved = state.saved(0).arrays
    name, array = "w", saved["w"]
    state.restore(saved, {}, 0)
    for other in (array.astype(np.float64), array.astype(np.int32), np.zeros((*array.shape, 1), array.dtype)):
        with pytest.raises(UsageError, match=rf"'{name}' is {array.dtype} .* here and {other.dtype} .* there"):
            state.restore({**saved, name: other}, {}, 0)
    with pytest.raises(UsageError, match="nothing there"):
        state.restore({key: value for key, value in saved.items() if key != name}, {}, 0)


@pytest.mark.parametrize("text", [
    b"[" * 10**5, b"\xff", b"{}", b"[1]", b"[[1], {}]", b'[["missing"], {}]', b'[[], []]', b"[[], {}, 3]",
])  # fmt: skip
def test_an_optimizers_text_that_is_none_is_named(text: bytes) -> None:
    state = made()
    state.trees = {0: SimpleNamespace(write=None)}  # type: ignore[dict-item]
    with pytest.raises(UsageError, match=r"saved tensors must fit .*'optimizer\.0' does not: .*Use the job"):
        state.restore({}, {"optimizer.0": np.frombuffer(text, np.uint8)}, 0)
