"""The language models learn a text and write on."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import EXAMPLES, briefly, losses, train, unisono, verified
from unisono.errors import UsageError
from unisono.runs.jobfile import load


@pytest.mark.thorough
@pytest.mark.parametrize(("example", "needed"), [("language", "torch"), ("language_jax", "flax")])
def test_a_text_is_learnt_and_gone_on_with(
    example: str, needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(needed)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))  # for all commands, to save time
    file, run, text = EXAMPLES / f"{example}.py", tmp_path / "run", tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    settings = [
        f"data={text}",
        "layers=1",
        "width=32",
        "context=16",
        "batch_size=16",
        "warmup=5",
        "lr=1e-2",
        "steps=80",
    ]
    verified(file, *settings)
    records = train(file, *settings, out=run)
    assert losses(records)[-1] < 0.5 * losses(records)[0]
    rates = [record["learning_rate"] for record in records if "learning_rate" in record]
    assert rates[0] < max(rates) > rates[-1]
    once, again = unisono("predict", file, run, "the quick", "the quick").split("\n", 1)
    assert once.startswith("the quick")
    assert again == f"{once}\n"
    assert "received 'the €'" in unisono("predict", file, run, "the €", status=2)


def test_a_text_is_gone_on_with_after_two_steps(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    settings = [f"data={tmp_path / 'text.txt'}", "layers=1", "width=32", "context=16", "batch_size=16"]
    (answer,) = briefly(EXAMPLES / "language.py", *settings, out=tmp_path / "run").infer(["the quick"])
    assert answer.startswith("the quick")


def test_a_short_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("too short")
    with pytest.raises(UsageError, match=r"20 times the context \(64\) in characters; .*text.txt has 9"):
        load(str(EXAMPLES / "language.py"), [f"data={tmp_path / 'text.txt'}"])
