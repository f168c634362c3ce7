"""Translation: bits, learning, search, and bad files named."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import translate
from torch import Tensor

from command_line import EXAMPLES, briefly, losses, train, unisono, verified
from unisono.errors import UsageError
from unisono.runs.jobfile import load

FILE = EXAMPLES / "translate.py"
SMALL = ["test=test", "layers=1", "width=32", "inner=64", "vocabulary=400", "batch_size=32", "warmup=20", "lr=1e-2",
         "dropout=0", "precision=float32", "beams=3"]  # fmt: skip


def captions(folder: Path) -> Path:
    """Sentences of three words with a translation for each word."""
    nouns, verbs = {"Hund": "dog", "Mann": "man", "Kind": "child"}, {"rennt": "runs", "lacht": "laughs"}
    pairs = [(f"Ein {n} {v}.", f"A {nouns[n]} {verbs[v]}.") for n, v in itertools.product(nouns, verbs)]
    folder.mkdir()
    for name, count in (("train", 240), ("val", 8), ("test", 8)):
        chosen = random.Random(name).choices(pairs, k=count)
        for language, side in (("de", 0), ("en", 1)):
            (folder / f"{name}.{language}").write_text("".join(f"{pair[side]}\n" for pair in chosen))
    return folder


@pytest.mark.thorough
def test_captions_are_translated(tmp_path: Path) -> None:
    data = captions(tmp_path / "data")
    settings = [f"data={data}", *SMALL, "epochs=15"]
    verified(FILE, *settings)
    records = train(FILE, *settings, out=tmp_path / "run")
    assert losses(records)[-1] < 0.5 * losses(records)[0]
    assert records[-1]["evaluation/test/bleu"] > 90
    shown = (tmp_path / "run" / "logs").glob("*")
    assert any("(wanted: A " in path.read_text() for path in shown)
    assert unisono("predict", FILE, tmp_path / "run", "Ein Hund lacht.") == "A dog laughs.\n"


def test_a_sentence_is_translated_after_two_steps(tmp_path: Path) -> None:
    run = briefly(FILE, f"data={captions(tmp_path / 'data')}", *SMALL, out=tmp_path / "run")
    (answer,) = run.infer(["Ein Hund lacht."])
    assert isinstance(answer, str)


class Table:
    """A model whose next word depends on the last one alone."""

    def __init__(self, chances: Tensor) -> None:
        self.chances = chances

    def encode(self, source: Tensor) -> Tensor:
        return torch.zeros(len(source), source.shape[1], 1)

    def decode(self, words: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        return words

    def output(self, last: Tensor) -> Tensor:
        return self.chances.log()[last]


def test_the_search_finds_what_a_greedy_one_misses() -> None:
    chances = torch.full((7, 7), 1e-6)
    chances[translate.BEGIN, 4], chances[translate.BEGIN, 5] = 0.6, 0.4
    chances[4] = 1 / 7  # after 4 nothing is sure
    chances[5, translate.END] = 1.0
    chances[6, translate.END] = 1.0
    model: Any = Table(chances / chances.sum(1, keepdim=True))
    source = torch.tensor([[4, translate.END]] * 2)
    assert translate.search(model, source, 1)[0][:2] == [translate.BEGIN, 4]
    assert [words[:3] for words in translate.search(model, source, 4)] == [[translate.BEGIN, 5, translate.END]] * 2


def test_padding_changes_no_translation() -> None:
    torch.manual_seed(0)
    model = translate.Translator(20, 1, 16, 2, 32, 0.0).eval()
    alone, padded = torch.tensor([[2, 7, 8, 3]]), torch.tensor([[2, 7, 8, 3, 0, 0, 0]])
    target = torch.tensor([[2, 9, 4]])
    torch.testing.assert_close(model(alone, target), model(padded, target))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("val.en", "one\n\n", "val.en, line 2, is empty"),
        ("val.en", "one\n", "val.de 8 and"),
        ("test.de", None, "a data set needs test.de"),
        ("test.en", "long " * 200 + "\n" + "x\n" * 7, "a sentence has 1 to 126 subwords; received"),
    ],
)
def test_bad_files_are_named_before_training(file: str, text: str | None, message: str, tmp_path: Path) -> None:
    data = captions(tmp_path / "data")
    (data / file).unlink() if text is None else (data / file).write_text(text)
    with pytest.raises(UsageError, match=re.escape(message)):
        load(str(FILE), [f"data={data}", *SMALL])
