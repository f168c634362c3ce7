"""The digits are learnt, and a backbone is fine-tuned."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import EXAMPLES, briefly, train


@pytest.mark.thorough
def test_digits_then_finetune(tmp_path: Path) -> None:
    records = train(EXAMPLES / "digits_torch.py", "epochs=8", out=tmp_path / "backbone")
    assert records[-1]["evaluation/accuracy"] >= 0.96
    backbone = tmp_path / "backbone" / "parameters.safetensors"
    records = train(EXAMPLES / "finetune.py", f"backbone={backbone}", out=tmp_path / "fine")
    assert records[-1]["evaluation/f1"] >= 0.9


def test_two_steps_and_two_of_a_fine_tuning(tmp_path: Path) -> None:
    backbone = briefly(EXAMPLES / "digits_torch.py", out=tmp_path / "backbone").directory / "parameters.safetensors"
    run = briefly(EXAMPLES / "finetune.py", f"backbone={backbone}", out=tmp_path / "fine")
    assert run.manifest["steps_done"] == 2
