"""Recordings and what is said in them, and their features."""

from __future__ import annotations

import io
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from corpora.files import found, read_bytes, recordings
from corpora.tables import rows
from unisono import UsageError

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DIGITS = "recordings.tar.gz"
MELS, FRAMES, STRIDE = 40, 100, 2
"""Bands of the spectrum; frames a second; how many of them the model makes one."""


class Utterance(NamedTuple):
    """How to read a recording, its length in samples, and what is said in it."""

    read: Callable[[], Tensor]
    length: int
    text: str


class Utterances(Dataset[tuple[Tensor, str]]):
    """Features and texts. `varied`: other speed, noise and gaps in each epoch; Unisono seeds `random` and torch."""

    def __init__(self, utterances: Sequence[Utterance], rate: int, varied: bool) -> None:
        self.utterances, self.rate, self.varied = utterances, rate, varied

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        wave, text = self.utterances[index].read(), self.utterances[index].text
        if not self.varied:
            return features(wave, self.rate), text
        wave = F.interpolate(wave[None, None], scale_factor=random.uniform(0.9, 1.1), mode="linear")[0, 0]
        noise = 10 ** random.uniform(-3, -1.5) * wave.std() * torch.randn(len(wave))
        frames = features(wave + noise, self.rate)
        for axis in (0, 0, 1, 1):  # two stretches of time and two of bands are blotted out (Park et al. 2019)
            width = random.randint(0, min(6, frames.shape[axis]))
            frames.narrow(axis, random.randint(0, frames.shape[axis] - width), width).zero_()
        return frames, text


def features(wave: Tensor, rate: int) -> Tensor:
    """(samples) → (frames, bands): the logarithm of the energy in each mel band, with mean 0 and deviation 1."""
    window = torch.hann_window(rate // 40)
    spectrum = torch.stft(
        wave, rate // 20, rate // FRAMES, len(window), window, pad_mode="constant", return_complex=True
    )
    hertz = torch.linspace(0, rate / 2, len(spectrum))
    edges = 700 * (10 ** torch.linspace(0, math.log10(1 + rate / 1400), MELS + 2) - 1)  # HTK's mel scale
    rise = (hertz - edges[:-2, None]) / edges.diff()[:-1, None]
    fall = (edges[2:, None] - hertz) / edges.diff()[1:, None]
    energy = torch.minimum(rise, fall).clamp(min=0) @ spectrum.abs().square()
    bands = (energy / energy.mean().clamp(min=1e-12) + 1e-5).log().T
    return (bands - bands.mean(0)) / (bands.std(0, correction=0) + 1e-3)


@contextmanager
def opened(path: Path, rate: int | None, where: str = "") -> Iterator[soundfile.SoundFile]:
    """An audio file with this rate, unless that is None.

    Raises:
        UsageError: it cannot be read, has another rate, or is empty.
    """
    try:
        with path.open("rb"), soundfile.SoundFile(path) as file:
            if not file.frames or rate not in (None, file.samplerate):
                raise UsageError(
                    f"a recording is not empty and has the rate of the first one in train.tsv, {rate or '(this one)'}; "
                    f"{where}{path} has {file.frames} samples at {file.samplerate} a second. Convert or remove it."
                )
            yield file
    except (OSError, soundfile.LibsndfileError) as error:
        raise UsageError(
            f"a recording is a WAV or FLAC file; {where}{path} cannot be read ({error}). Mend or remove it."
        ) from error


def read(path: str | Path, rate: int) -> Tensor:
    """A recording's samples; the mean of its channels.

    Raises:
        UsageError: as of `opened`.
    """
    with opened(Path(path), rate) as file:
        return torch.from_numpy(file.read(dtype="float32", always_2d=True).mean(1))


def utterances(place: Path) -> tuple[dict[str, list[Utterance]], int, str]:
    """The train, dev and test utterances of a folder's tables, or of its spoken digits; their rate and characters.

    Raises:
        UsageError: a bad row or recording, or a text that it cannot have; file and line are named.
    """
    if found(place / DIGITS):
        return _digits(place / DIGITS)
    parts: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    rate, alphabet = None, ""
    for part, spoken in parts.items():
        for row in rows(place / f"{part}.tsv", "a recording and what is said in it"):
            path, text, where = place / row.text, " ".join(row.label.split()), f"{part}.tsv, line {row.line}: "
            with opened(path, rate, where) as file:
                rate, length = file.samplerate, file.frames
            needed = len(text) + sum(a == b for a, b in pairwise(text))  # a blank parts equal ones
            if length * FRAMES < needed * STRIDE * rate:
                raise UsageError(
                    f"CTC needs {needed * STRIDE / FRAMES} s for {text!r}; {where}{path} has {length / rate:.2f} s. "
                    "Mend or remove it."
                )
            if part != "train" and (unknown := set(text) - set(alphabet)):
                raise UsageError(
                    f"characters are those of train.tsv, {alphabet!r}; {where}{text!r} has {sorted(unknown)}. "
                    "Spell it with those, or remove it."
                )
            spoken.append(Utterance(partial(read, path, rate), length, text))
        alphabet = alphabet or _alphabet(spoken)
    assert rate is not None  # a table has a row
    return parts, rate, alphabet


def _alphabet(spoken: Sequence[Utterance]) -> str:
    return "".join(sorted({character for utterance in spoken for character in utterance.text}))


def _digits(archive: Path) -> tuple[dict[str, list[Utterance]], int, str]:
    """Strings of digits, each spoken by one person: test of takes 0-4, dev of 5-9, train of the others.

    Those of dev and test have three to six digits; those of train one to six, so that a lone digit is known too.
    """
    takes: dict[tuple[str, str], list[tuple[Tensor, str]]] = defaultdict(list)
    for name, content in sorted(recordings(read_bytes(archive)).items()):
        digit, speaker, take = Path(name).stem.split("_")
        wave, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        part = "test" if int(take) < 5 else "dev" if int(take) < 10 else "train"
        takes[part, speaker].append((torch.from_numpy(wave), WORDS[int(digit)]))
    chance = random.Random(0)
    parts: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for part, count in (("train", 6000), ("dev", 300), ("test", 300)):
        speakers = [takes[key] for key in sorted(takes) if key[0] == part]
        for number in range(count):
            least = 1 if part == "train" else 3
            chosen = chance.choices(speakers[number % len(speakers)], k=chance.randint(least, 6))
            pieces = [piece for wave, _ in chosen for piece in (wave, torch.zeros(chance.randrange(800)))]
            text = " ".join(word for _, word in chosen)
            parts[part].append(Utterance(partial(torch.cat, pieces), sum(map(len, pieces)), text))
    return parts, rate, _alphabet(parts["train"])
