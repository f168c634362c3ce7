"""The language model learns a text and writes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import EXAMPLES, losses, train, unisono, verified
from unisono.errors import UsageError
from unisono.jobfile import load

FILE = EXAMPLES / "language.py"


def test_it_learns_a_text_and_writes_on(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    settings = ["layers=2", "width=32", "context=16", "steps=60", "warmup=5", "lr=1e-2", f"data={text}"]
    verified(FILE, *settings)
    records = train(FILE, *settings, out=tmp_path / "run")
    assert losses(records)[-1] < 0.5 * losses(records)[0]
    assert {"gradient_norm", "learning_rate"} <= set(records[0])
    assert records[0]["learning_rate"] < records[4]["learning_rate"]
    assert unisono("predict", FILE, tmp_path / "run", "the quick").startswith("the quick")
    assert "received 'the €' with ['€']" in unisono("predict", FILE, tmp_path / "run", "the €", status=2)


def test_a_short_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("too short")
    with pytest.raises(UsageError, match=r"20 times the context \(64\) in characters; .*text.txt has 9"):
        load(str(FILE), [f"data={tmp_path / 'text.txt'}"])
