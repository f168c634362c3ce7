"""The examples run as their first lines say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).parent.parent
EXAMPLES = HOME / "examples"


def train(*arguments: object, out: Path) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "unisono", "train", *map(str, arguments), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_digits_then_finetune(tmp_path: Path) -> None:
    records = train(EXAMPLES / "digits_torch.py", "epochs=8", out=tmp_path / "backbone")
    assert records[-1]["evaluation/accuracy"] >= 0.96
    backbone = tmp_path / "backbone" / "parameters.safetensors"
    records = train(EXAMPLES / "finetune.py", f"backbone={backbone}", out=tmp_path / "fine")
    assert records[-1]["evaluation/f1"] >= 0.9


def test_the_language_model_learns_a_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    settings = ["layers=2", "width=32", "context=16", "steps=60", "warmup=5", "lr=1e-2", f"data={text}"]
    records = train(EXAMPLES / "language.py", *settings, out=tmp_path / "gpt")
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < 0.5 * losses[0]
    assert {"gradient_norm", "learning_rate"} <= set(records[0])
    assert records[0]["learning_rate"] < records[4]["learning_rate"]
