"""Speech to text: the job on recordings of tones, and its parts."""

from __future__ import annotations

import importlib
import itertools
import re
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from command_line import EXAMPLES, briefly, losses, train, unisono, verified
from unisono.errors import UsageError
from unisono.runs.jobfile import load

RATE = 8000
TONES = {"a": 400.0, "i": 1500.0}
SETTINGS = ("width=64", "layers=1", "dropout=0", "lr=1e-2", "batch_size=8")


def sung(path: Path, text: str, rate: int = RATE) -> None:
    """A recording of tones, one for each word, parted by silence."""
    seconds, silence = np.arange(int(0.15 * rate)) / rate, np.zeros(int(0.05 * rate))
    tones = [0.3 * np.sin(2 * np.pi * TONES[word] * seconds) for word in text.split()]
    soundfile.write(path, np.concatenate([part for tone in tones for part in (silence, tone)]), rate)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("songs")
    texts = [" ".join(words) for count in (1, 2, 3) for words in itertools.product(TONES, repeat=count)]
    for number, text in enumerate(texts):
        sung(place / f"{number}.{('wav', 'flac')[number % 2]}", text)
    for part, copies in (("train", 16), ("dev", 1), ("test", 1)):
        lines = [f"{n}.{('wav', 'flac')[n % 2]}\t{text}\n" for n, text in enumerate(texts)]
        (place / f"{part}.tsv").write_text("".join(lines * copies))
    return place


@pytest.mark.thorough
def test_speech_has_the_same_bits_on_any_number_of_workers(songs: Path) -> None:
    verified(EXAMPLES / "speech.py", f"data={songs}", *SETTINGS)


@pytest.mark.thorough
def test_speech_learns_and_writes_down_a_recording(songs: Path, tmp_path: Path) -> None:
    file, run = EXAMPLES / "speech.py", tmp_path / "run"
    records = train(file, f"data={songs}", *SETTINGS, "epochs=7", out=run)
    assert losses(records)[-1] < 0.1 * losses(records)[0]
    assert records[-1]["evaluation/test/wer"] < 0.1
    sung(tmp_path / "new.wav", "i a i")
    assert unisono("predict", file, run, tmp_path / "new.wav") == "i a i\n"


def test_a_recording_is_written_down_after_two_steps(songs: Path, tmp_path: Path) -> None:
    run = briefly(EXAMPLES / "speech.py", f"data={songs}", *SETTINGS, out=tmp_path / "run")
    (answer,) = run.infer([str(songs / "0.wav")])
    assert set(answer) <= set("ai ")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"not audio", "a recording is a WAV or FLAC file; dev.tsv, line 2: "),
        (None, "a recording is a WAV or FLAC file; dev.tsv, line 2: "),
        (16000, "has the rate of the first one in train.tsv, 8000; dev.tsv, line 2: "),
        ("", "a recording is not empty and has the rate of the first one in train.tsv"),
    ],
)
def test_a_bad_recording_is_named_before_training(content: bytes | int | str | None, text: str, songs: Path) -> None:
    bad = songs / "bad.wav"
    bad.unlink(missing_ok=True)
    if isinstance(content, bytes):
        bad.write_bytes(content)
    elif isinstance(content, int):
        sung(bad, "a", content)
    elif content is not None:
        soundfile.write(bad, np.zeros(0), RATE)
    refuses(songs, "bad.wav\ta", text, "bad.wav")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("0.wav", "a row holds a recording and what is said in it; "),
        ("0.wav", "dev.tsv, line 2, has ['0.wav']"),
        ("0.wav\t ", "dev.tsv, line 2, has ['0.wav', ' ']"),
        ("0.wav\to", "characters are those of train.tsv, ' ai'; dev.tsv, line 2: 'o' has ['o']"),
        ("0.wav\taaiiaaii", "CTC needs 0.24 s for 'aaiiaaii'; dev.tsv, line 2: "),
    ],
)
def test_a_bad_text_is_named_before_training(line: str, text: str, songs: Path) -> None:
    refuses(songs, line, text, "dev.tsv")


def refuses(songs: Path, line: str, *texts: str) -> None:
    """A folder whose dev.tsv has this second line is refused, and the refusal has these texts."""
    table = songs / "dev.tsv"
    before = table.read_text()
    table.write_text(f"0.wav\ta\n{line}\n")
    try:
        with pytest.raises(UsageError) as refusal:
            load(str(EXAMPLES / "speech.py"), [f"data={songs}"])
    finally:
        table.write_text(before)
    assert all(text in str(refusal.value) for text in texts), refusal.value


def test_a_broken_recording_is_named_when_it_is_read(songs: Path, tmp_path: Path, module: ModuleType) -> None:
    broken = tmp_path / "broken.flac"
    whole = (songs / "1.flac").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=re.escape(f"{broken} cannot be read")):
        module.read(broken, RATE)


@pytest.fixture
def module() -> ModuleType:
    return importlib.import_module("speech")


def text_of(path: tuple[int, ...], alphabet: str) -> str:
    return "".join(alphabet[symbol - 1] for symbol, _ in itertools.groupby(path) if symbol)


@pytest.mark.parametrize("seed", range(5))
def test_the_beam_search_finds_the_likeliest_text_over_all_paths(seed: int, module: ModuleType) -> None:
    scores = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)).log_softmax(1)
    chances: dict[str, float] = defaultdict(float)
    for path in itertools.product(range(3), repeat=5):
        chances[text_of(path, "ab")] += float(scores.gather(1, torch.tensor(path)[:, None]).sum().exp())
    assert module.beam_search("ab", 1000, scores) == max(chances, key=chances.__getitem__)


def test_the_beam_search_beats_the_likeliest_path(module: ModuleType) -> None:
    scores = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()  # no "a": 0.36; one: 0.16 + 0.24 + 0.24
    assert module.greedy("a", scores[None], torch.tensor([2])) == [""]
    assert module.beam_search("a", 2, scores) == "a"


def test_the_greedy_decoder_merges_repeats_and_drops_blanks_and_padding(module: ModuleType) -> None:
    paths = torch.tensor([[1, 1, 0, 1, 2, 2], [0, 2, 2, 1, 1, 1]])
    scores = torch.nn.functional.one_hot(paths, 3).float()
    assert module.greedy("ab", scores, torch.tensor([6, 3])) == ["aab", "b"]


def test_padding_changes_nothing(songs: Path) -> None:
    job = load(str(EXAMPLES / "speech.py"), [f"data={songs}", *SETTINGS]).job
    model = job.model().eval()
    (frames, lengths), _ = job.collate([job.evaluation["dev"][index] for index in (0, 13)])
    assert lengths[0] < lengths[1]
    scores, sizes = model(frames, lengths)
    alone, _ = model(frames[:1, : lengths[0]], lengths[:1])
    torch.testing.assert_close(scores[0, : sizes[0]], alone[0])
