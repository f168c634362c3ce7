"""The examples in other frameworks than PyTorch run as their first lines say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import EXAMPLES, losses, train, unisono, verified


def test_the_jax_language_model_learns_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax")
    pytest.importorskip("flax")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))  # for all commands, to save time
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    settings = ["layers=1", "width=32", "context=16", "batch_size=16", "warmup=5", "lr=1e-2", "steps=80"]
    verified(EXAMPLES / "language_jax.py", f"data={text}", *settings)
    records = train(EXAMPLES / "language_jax.py", f"data={text}", *settings, out=tmp_path / "run")
    assert losses(records)[-1] < 0.5 * losses(records)[0]
    rates = [record["learning_rate"] for record in records if "learning_rate" in record]
    assert rates[0] < max(rates) > rates[-1]
    once, again = unisono("predict", EXAMPLES / "language_jax.py", tmp_path / "run", *["the quick"] * 2).split("\n", 1)
    assert once.startswith("the quick")
    assert again == f"{once}\n"


def squares_and_stripes(folder: Path) -> Path:
    """Grey pictures (12, 10) of two classes, each at its own place."""
    random = np.random.default_rng(0)
    for name, copies in (("train", 48), ("dev", 8), ("test", 8)):
        for number in range(copies):
            square, stripe = random.integers(0, 60, (2, 12, 10), "uint8")
            row, column = random.integers(1, 6, 2)
            square[row : row + 4, column - 1 : column + 3] = 250
            stripe[row] = 250
            for label, pixels in (("square", square), ("stripe", stripe)):
                (folder / name / label).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / name / label / f"{number}.png")
    return folder


def test_the_keras_network_knows_pictures(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    example, data = EXAMPLES / "images_keras.py", squares_and_stripes(tmp_path / "data")
    settings = [f"data={data}", "width=4", "batch_size=16", "epochs=4", "lr=0.05", "most=1"]
    verified(example, *settings)
    records = train(example, *settings, out=tmp_path / "run")
    assert sum(losses(records)[-6:]) < 0.7 * sum(losses(records)[:6])
    answer = unisono("predict", example, tmp_path / "run", data / "test" / "stripe" / "0.png")
    assert answer.split()[0] in ("square", "stripe")
    assert 0.5 <= float(answer.split()[1]) <= 1
