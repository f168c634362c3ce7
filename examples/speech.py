"""Speech to text: convolutions and LSTMs over log-mel frames, trained with CTC on strings of spoken digits.

unisono train examples/speech.py
unisono train examples/speech.py data=FOLDER     train.tsv, dev.tsv, test.tsv: a WAV or FLAC file, a tab, its text
unisono predict examples/speech.py RUN_DIR recording.wav --at best
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import jiwer
import torch
import torch.nn.functional as F
from corpora.files import folder
from corpora.scores import Score
from corpora.sounds import MELS, STRIDE, Utterances, features, read, utterances
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from unisono import Job, by_length

Frames, Texts = tuple[Tensor, Tensor], tuple[Tensor, Tensor, list[str]]
"""(batch, frames, bands or symbols), how many frames count; all symbols in a row, how many each text has, the texts."""


class Recogniser(nn.Module):
    """Convolutions that halve the frames, LSTMs in both directions, a classifier of each frame; none sees padding."""

    def __init__(self, symbols: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv1d(MELS, width, 5, 1, 2), nn.Conv1d(width, width, 5, STRIDE, 2)])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.convolutions)
        both = [[nn.LSTM(width * min(n, 2), width, batch_first=True) for n in range(1, layers + 1)] for _ in range(2)]
        self.onwards, self.backwards = map(nn.ModuleList, both)
        self.dropout, self.output = nn.Dropout(dropout), nn.Linear(2 * width, symbols)

    def forward(self, frames: Tensor, lengths: Tensor) -> Frames:
        """Frames of bands → half as many of the symbols' log-probabilities."""
        for convolve, norm in zip(self.convolutions, self.norms, strict=True):
            frames = F.gelu(norm(convolve(frames.transpose(1, 2)).transpose(1, 2)))
            lengths = (lengths - 1) // convolve.stride[0] + 1
            places = torch.arange(frames.shape[1])
            frames = frames * (places < lengths[:, None])[:, :, None]
        # Each recording turned round within its own length: on a CPU far faster than nn.LSTM on packed sequences.
        turned = (lengths[:, None] - 1 - places).clamp(min=0)[:, :, None]
        for onwards, backwards in zip(self.onwards, self.backwards, strict=True):
            frames = self.dropout(frames)
            future = backwards(frames.take_along_dim(turned, 1))[0].take_along_dim(turned, 1)
            frames = torch.cat([onwards(frames)[0], future], 2)
        return self.output(self.dropout(frames)).log_softmax(2), lengths


def collate(alphabet: str, samples: list[tuple[Tensor, str]]) -> tuple[Frames, Texts]:
    """Frames filled up to the longest; texts as symbols."""
    frames, texts = zip(*samples, strict=True)
    codes = torch.tensor([alphabet.index(character) + 1 for text in texts for character in text])
    lengths, sizes = (torch.tensor([len(value) for value in column]) for column in (frames, texts))
    return (nn.utils.rnn.pad_sequence(frames, batch_first=True), lengths), (codes, sizes, list(texts))


def loss(outputs: Frames, targets: Texts) -> tuple[Tensor, int]:
    """CTC's loss, and the characters that it is over; 0 where speeding up left too few frames for the text."""
    (scores, lengths), (codes, sizes, _) = outputs, targets
    return F.ctc_loss(scores.transpose(0, 1), codes, lengths, sizes, reduction="sum", zero_infinity=True), len(codes)


def greedy(alphabet: str, scores: Tensor, lengths: Tensor) -> list[str]:
    """The texts of the likeliest symbol of each frame: repeats are one, then blanks (symbol 0) go."""
    paths = [row[:length].argmax(1).unique_consecutive() for row, length in zip(scores, lengths, strict=True)]
    return ["".join(alphabet[symbol - 1] for symbol in path.tolist() if symbol) for path in paths]


def beam_search(alphabet: str, beams: int, scores: Tensor) -> str:
    """The likeliest text of (frames, symbols), summed over the paths that spell it (prefix search, Hannun 2014)."""
    kept = {"": (1.0, 0.0)}  # text → how likely are its paths that end with a blank, and those that do not
    for blank, *symbols in scores.exp().tolist():
        found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for text, (closed, open_) in kept.items():
            found[text][0] += (closed + open_) * blank
            for character, chance in zip(alphabet, symbols, strict=True):
                again = open_ if text.endswith(character) else 0.0  # the same character goes on, with no blank between
                found[text][1] += again * chance
                found[text + character][1] += (closed + open_ - again) * chance
        best = sorted(found.items(), key=lambda item: -sum(item[1]))[:beams]
        kept = {text: (closed / sum(best[0][1]), open_ / sum(best[0][1])) for text, (closed, open_) in best}
    return next(iter(kept))


def transcript(alphabet: str, beams: int, rate: int, model: nn.Module, path: str) -> str:
    """What is said in a WAV or FLAC file."""
    frames = features(read(path, rate), rate)
    return beam_search(alphabet, beams, model(frames[None], torch.tensor([len(frames)]))[0][0])


def job(
    data: str = "", epochs: int = 14, batch_size: int = 16, lr: float = 3e-3, width: int = 128, layers: int = 2,
    dropout: float = 0.2, beams: int = 8,
) -> Job:  # fmt: skip
    """The recogniser; `beams`: texts that `unisono predict` follows at once."""
    found, rate, alphabet = utterances(folder("fsdd", data))
    return Job(
        model=partial(Recogniser, len(alphabet) + 1, width, layers, dropout),
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01),
        schedule=lambda optimizer, steps: LambdaLR(optimizer, lambda at: min(10 * (at + 1) / steps, 1 - at / steps)),
        clip_norm=1.0,
        data=Utterances(found["train"], rate, varied=True),
        order=by_length([utterance.length for utterance in found["train"]], batch_size),
        collate=partial(collate, alphabet),
        evaluation={part: Utterances(found[part], rate, varied=False) for part in ("dev", "test")},
        predict=lambda model, inputs: greedy(alphabet, *model(*inputs)),
        metrics={"wer": Score(lambda heard, said: float(jiwer.wer(said, heard)))},
        best=("min", "dev/wer"),
        batch_size=batch_size,
        microbatches=4,
        epochs=epochs,
        infer=partial(transcript, alphabet, beams, rate),
    )
