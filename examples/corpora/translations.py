"""Aligned sentences of two languages, and the subwords in them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from corpora.files import read_text
from unisono import UsageError


def aligned(place: Path, name: str, languages: tuple[str, str]) -> list[tuple[str, str]]:
    """Pairs of sentences: line n of one file (name.de, say) translates line n of the other (name.en).

    Raises:
        UsageError: a file is missing, one has more lines, or a line is empty; file and line are named.
    """
    paths = [place / f"{name}.{language}" for language in languages]
    texts = [read_text(path).removesuffix("\n").split("\n") for path in paths]
    for path, text in zip(paths, texts, strict=True):
        for number, line in enumerate(text, 1):
            if not line.strip():
                raise UsageError(f"each line is a sentence; {path}, line {number}, is empty. Remove it in both.")
    if len(texts[0]) != len(texts[1]):
        counts = " and ".join(f"{path} {len(text)}" for path, text in zip(paths, texts, strict=True))
        raise UsageError(f"line n of one file translates line n of the other; received {counts} lines.")
    return list(zip(*texts, strict=True))


def subwords(texts: Iterable[str], size: int) -> SentencePieceProcessor:
    """A byte-pair encoding learnt from texts: 0 fills up, 1 is unknown, 2 begins and 3 ends a sentence."""
    learnt = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=learnt, model_type="bpe", vocab_size=size, byte_fallback=True,
        hard_vocab_limit=False, num_threads=1, pad_id=0, unk_id=1, bos_id=2, eos_id=3, minloglevel=2,
    )  # fmt: skip
    return SentencePieceProcessor(model_proto=learnt.getvalue())
