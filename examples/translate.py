"""Machine translation: a transformer (Vaswani et al. 2017) on subwords; German to English on Multi30k's captions.

unisono train examples/translate.py
unisono train examples/translate.py data=FOLDER source=cs target=fr test=test    any aligned train.*, val.*, test.*
unisono predict examples/translate.py RUN_DIR "Ein Hund rennt durch den Schnee." --at best
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from corpora.files import folder
from corpora.scores import Score
from corpora.translations import aligned, subwords
from sacrebleu import corpus_bleu
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from unisono import Job, UsageError, by_length

PAD, BEGIN, END, LONGEST = 0, 2, 3, 128  # numbers of subwords, and how many a sentence may have


class Translator(nn.Module):
    """An encoder and a decoder of torch's layers; source, target and output share one table of vectors."""

    def __init__(self, vocabulary: int, layers: int, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, inner, dropout, batch_first=True, norm_first=True)
        encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        common = (width, heads, layers, layers, inner, dropout)
        self.layers = nn.Transformer(*common, custom_encoder=encoder, batch_first=True, norm_first=True)
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(LONGEST, width)
        self.dropout, self.output = nn.Dropout(dropout), nn.Linear(width, vocabulary)
        self.output.weight = self.words.weight
        for vectors in (self.words, self.places):
            nn.init.normal_(vectors.weight, std=width**-0.5)

    def embed(self, numbers: Tensor) -> Tensor:
        """(batch, words) → (batch, words, width)."""
        return self.dropout(self.words(numbers) + self.places.weight[: numbers.shape[1]])

    def encode(self, source: Tensor) -> Tensor:
        """(batch, source) → what the decoder looks at, (batch, source, width)."""
        return self.layers.encoder(self.embed(source), src_key_padding_mask=source == PAD)

    def decode(self, target: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """(batch, target) and its source, encoded and not → (batch, target, width)."""
        ahead = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        return self.layers.decoder(self.embed(target), memory, ahead, None, None, source == PAD, tgt_is_causal=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(batch, source), (batch, target) → logits of what follows each word, (batch, target, vocabulary)."""
        return self.output(self.decode(target, self.encode(source), source))


def search(model: Translator, source: Tensor, beams: int) -> list[list[int]]:
    """The best translation found of each source, (batch, words), by beam search; one beam is greedy decoding."""
    batch, most = len(source), min(LONGEST, 2 * source.shape[1] + 10)
    memory, source = (values.repeat_interleave(beams, 0) for values in (model.encode(source), source))
    words, first = torch.full((batch * beams, 1), BEGIN), torch.arange(batch)[:, None] * beams
    scores = torch.tensor([0.0] + [-torch.inf] * (beams - 1)).repeat(batch, 1)
    while words.shape[1] < most and not (ended := (words == END).any(1)).all():
        chances = model.output(model.decode(words, memory, source)[:, -1]).float().log_softmax(1)
        chances[ended] = torch.tensor([0.0 if word == PAD else -torch.inf for word in range(chances.shape[1])])
        scores, best = (scores.view(-1, 1) + chances).view(batch, -1).topk(beams)
        words = torch.cat([words[(first + best // chances.shape[1]).flatten()], best.view(-1, 1) % chances.shape[1]], 1)
    return words[first[:, 0] + (scores / (words != PAD).sum(1).view(batch, beams)).argmax(1)].tolist()


def loss(logits: Tensor, targets: tuple[Tensor, list[str]]) -> tuple[Tensor, Tensor]:
    """Smoothed cross-entropy summed over the words, and how many there are."""
    words = targets[0].flatten()
    total = F.cross_entropy(logits.flatten(0, 1), words, ignore_index=PAD, reduction="sum", label_smoothing=0.1)
    return total, (words != PAD).sum()


def collate(samples: list[tuple[Tensor, Tensor, str]]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, list[str]]]:
    """Sentences filled up; the model sees the target up to a word and is asked for that word."""
    source, target = (nn.utils.rnn.pad_sequence([s[side] for s in samples], batch_first=True) for side in (0, 1))
    return (source, target[:, :-1]), (target[:, 1:], [text for *_, text in samples])


def job(
    data: str = "", source: str = "de", target: str = "en", test: str = "test_2016_flickr", epochs: int = 24,
    batch_size: int = 128, lr: float = 1e-3, warmup: int = 800, layers: int = 3, width: int = 256, heads: int = 8,
    inner: int = 512, dropout: float = 0.25, vocabulary: int = 4000, beams: int = 5, precision: str = "bfloat16",
) -> Job:  # fmt: skip
    """The translator; `vocabulary`: subwords of both languages together; precision=float32 where bfloat16 is slow."""
    pairs = {name: aligned(folder("multi30k", data), name, (source, target)) for name in ("train", "val", test)}
    pieces = subwords([text for pair in pairs["train"] for text in pair], vocabulary)

    def numbers(text: str) -> Tensor:
        found = pieces.encode(text, add_bos=True, add_eos=True)
        if not 2 < len(found) <= LONGEST:
            raise UsageError(f"a sentence has 1 to {LONGEST - 2} subwords; received {len(found) - 2} in {text!r}.")
        return torch.tensor(found)

    samples = {name: [(numbers(a), numbers(b), b) for a, b in table] for name, table in pairs.items()}
    return Job(
        model=partial(Translator, len(pieces), layers, width, heads, inner, dropout),
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=lambda optimizer, steps: LambdaLR(optimizer, lambda at: min((at + 1) / warmup, 1 - at / steps)),
        clip_norm=1.0,
        data=samples["train"],
        collate=collate,
        order=by_length([len(b) for _, b, _ in samples["train"]], batch_size),
        batch_size=batch_size, microbatches=4,  # 32 sentences a piece: smaller ones waste 5 % of the time
        epochs=epochs,
        precision=precision,
        evaluation={"dev": samples["val"], "test": samples[test]},
        evaluate_every=6 * -(-len(pairs["train"]) // batch_size),  # decoding takes its time
        predict=lambda model, inputs: pieces.decode(search(model, inputs[0], 1)),
        metrics={"bleu": Score(lambda found, wanted: corpus_bleu(found, [wanted]).score)},
        best=("max", "dev/bleu"),
        infer=lambda model, text: pieces.decode(search(model, numbers(text)[None], beams)[0]),
    )  # fmt: skip
