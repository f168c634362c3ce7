"""Texts are classified, and bad tables named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from command_line import EXAMPLES, briefly, losses, train, unisono, verified
from unisono.errors import UsageError
from unisono.runs.jobfile import load

TAB = "\t"


def reviews(folder: Path, suffix: str, separator: str, header: str = "") -> Path:
    folder.mkdir()
    good, bad = ["好 a fine film", "很好 truly moving"], ["差 a dull mess", "很差 truly awful"]
    for name, copies in (("train", 40), ("dev", 10), ("test", 10)):
        lines = [f"{text} {name}{separator}{label}" for label, texts in (("pos", good), ("neg", bad)) for text in texts]
        (folder / f"{name}{suffix}").write_text(header + "\n".join(lines * copies) + "\n")
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("example", "table"), [("text", (".csv", ",", "text,label\n")), ("sentiment_zh", (".tsv", "\t"))]
)
def test_texts_are_classified(example: str, table: tuple[str, ...], tmp_path: Path) -> None:
    file, data = EXAMPLES / f"{example}.py", reviews(tmp_path / "data", *table)
    verified(file, f"data={data}")
    records = train(file, f"data={data}", "epochs=6", "lr=5e-3", out=tmp_path / "run")
    assert losses(records)[-1] < 0.5 * losses(records)[0]
    assert unisono("predict", file, tmp_path / "run", "很好 a fine film").startswith("pos  ")


def test_any_number_of_workers_gives_the_same_parameters_and_answers(tmp_path: Path) -> None:
    file, settings = EXAMPLES / "text.py", [f"data={reviews(tmp_path / 'data', '.tsv', TAB)}", "lr=5e-3"]
    one = briefly(file, *settings, out=tmp_path / "one")
    three = briefly(file, *settings, out=tmp_path / "three", workers=3)
    assert one.parameters_sha256 == three.parameters_sha256
    (answer,) = three.infer(["a fine film"])
    assert answer.split()[0] in ("pos", "neg")


@pytest.mark.parametrize(
    ("file", "line", "text"),
    [
        ("dev.tsv", "\tpos", "dev.tsv, line 2, has ['', 'pos']"),
        ("dev.tsv", "only a text", "dev.tsv, line 2, has ['only a text']"),
        ("test.tsv", "a text\todd", "test.tsv, line 2, has 'odd'"),
    ],
)
def test_a_bad_row_is_named_before_training(file: str, line: str, text: str, tmp_path: Path) -> None:
    data = reviews(tmp_path / "data", ".tsv", "\t")
    (data / file).write_text(f"a fine film\tpos\n{line}\n")
    with pytest.raises(UsageError, match=re.escape(text)):
        load(str(EXAMPLES / "text.py"), [f"data={data}"])
