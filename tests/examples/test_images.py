"""Images: bits, learning, real formats, and bad files named."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora.pictures import Augmented, picture, pictures
from PIL import Image

from command_line import EXAMPLES, briefly, losses, train, unisono, verified
from unisono.errors import UsageError
from unisono.runs.jobfile import load

FILE = EXAMPLES / "images.py"
SMALL = ["width=4", "batch_size=24", "lr=0.1", "most=1"]
GREY = np.random.default_rng(0).integers(0, 256, (24, 12, 10), np.uint8)


def labelled(folder: Path, suffix: str = "png") -> Path:
    """Dark and bright pictures: train 40 of each, dev and test 5."""
    chance = np.random.default_rng(1)
    for name, count in (("train", 40), ("dev", 5), ("test", 5)):
        for label, level in (("dark", 40), ("bright", 180)):
            (folder / name / label).mkdir(parents=True)
            for number in range(count):
                pixels = chance.integers(level, level + 40, (12, 10, 3), np.uint8)
                Image.fromarray(pixels).save(folder / name / label / f"{number}.{suffix}")
    return folder


def idx(folder: Path, classes: int = 4) -> Path:
    """MNIST's files, 24 training and 12 test pictures."""
    for name, count in (("train", 24), ("t10k", 12)):
        head = bytes([0, 0, 8, 3]) + struct.pack(">3I", count, 12, 10)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + GREY[:count].tobytes()))
        labels = bytes(number % classes for number in range(count))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + struct.pack(">I", count) + labels)
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize(("example", "needed"), [("images", "torch"), ("images_keras", "tensorflow")])
def test_pictures_are_told_apart(example: str, needed: str, tmp_path: Path) -> None:
    pytest.importorskip(needed)
    file, run, data = EXAMPLES / f"{example}.py", tmp_path / "run", labelled(tmp_path / "data")
    settings = [f"data={data}", *SMALL, "epochs=4"]
    verified(file, *settings)
    records = train(file, *settings, out=run)
    assert losses(records)[-1] < 0.7 * losses(records)[0]
    assert records[-1]["evaluation/test/accuracy"] == 1
    for label in ("dark", "bright"):
        assert unisono("predict", file, run, data / "test" / label / "0.png", "--at", "best").startswith(f"{label}  ")


def test_a_picture_is_told_after_two_steps(tmp_path: Path) -> None:
    run = briefly(FILE, f"data={labelled(tmp_path / 'data')}", *SMALL, out=tmp_path / "run")
    (answer,) = run.infer([str(tmp_path / "data" / "test" / "dark" / "0.png")])
    assert answer.split()[0] in ("dark", "bright")


def test_what_is_no_picture_gets_no_answer(tmp_path: Path) -> None:
    sets, _ = pictures(labelled(tmp_path))
    with pytest.raises(UsageError, match=r"must be a sound PNG or JPEG file; .*images\.py is not"):
        picture(FILE, sets["train"].shape)


def test_real_formats_are_read(tmp_path: Path) -> None:
    for folder in ("idx", "cifar"):
        (tmp_path / folder).mkdir()
    sets, names = pictures(idx(tmp_path / "idx"))
    assert {name: len(part) for name, part in sets.items()} == {"train": 22, "dev": 2, "test": 12}
    assert names == ["0", "1", "2", "3"]
    image, label = sets["dev"][0]
    assert (image[..., 0] == GREY[22]).all()
    assert label == 22 % 4

    pixels = np.random.default_rng(2).integers(0, 256, (4, 3, 32, 32), np.uint8)
    for file in [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]:
        rows = [bytes([number]) + pixels[number].tobytes() for number in range(4)]
        (tmp_path / "cifar" / file).write_bytes(b"".join(rows))
    sets, names = pictures(tmp_path / "cifar")
    image, label = sets["test"][3]
    assert (image == pixels[3].transpose(1, 2, 0)).all()
    assert (label, len(names), sets["train"].shape) == (3, 4, (32, 32, 3))

    sets, names = pictures(labelled(tmp_path / "jpeg", "jpg"))
    image, label = sets["train"][0]
    assert (names[label], image.shape, image.dtype) == ("bright", (12, 10, 3), np.uint8)


def test_training_pictures_vary_within_bounds(tmp_path: Path) -> None:
    sets, _ = pictures(idx(tmp_path))
    still = Augmented(sets["train"], 0, False)
    np.random.seed(0)
    changed = [int((still[3][0] != sets["train"][3][0]).sum()) for _ in range(200)]
    assert 60 < changed.count(0) < 140  # about half of them have a part hidden
    assert max(changed) <= 6 * 5
    moved = Augmented(sets["train"], 2, True)
    assert {moved[3][0].shape for _ in range(9)} == {(12, 10, 1)}
    assert moved[3][1] == sets["train"][3][1]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda place: cut(place / "t10k-labels-idx1-ubyte"), "t10k-labels-idx1-ubyte must have 12 values (12,)"),
        (lambda place: (place / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x03"), "begins with 0 0 8 1"),
        (lambda place: cut(place / "train-images-idx3-ubyte.gz"), "train-images-idx3-ubyte.gz is damaged"),
        (lambda place: (place / "t10k-labels-idx1-ubyte").unlink(), "a data set needs t10k-labels-idx1-ubyte"),
        (lambda place: idx(place, 4) and (place / "t10k-labels-idx1-ubyte").write_bytes(
            bytes([0, 0, 8, 1]) + struct.pack(">I", 12) + bytes(11) + b"\x09"), "a test picture in "),
    ],
)  # fmt: skip
def test_a_bad_idx_file_is_named(spoil: Any, message: str, tmp_path: Path) -> None:
    spoil(idx(tmp_path))
    with pytest.raises(UsageError, match=re.escape(message)):
        load(str(FILE), [f"data={tmp_path}"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda place: cut(place / "train" / "dark" / "7.png"), "dark/7.png is not ("),
        (lambda place: (place / "dev" / "dark" / "0.png").write_text("?"), "dev/dark/0.png is not ("),
        (lambda place: (place / "test" / "dark").rename(place / "test" / "grey"), "bright, dark; received "),
    ],
)
def test_a_bad_picture_is_named_before_training(spoil: Any, message: str, tmp_path: Path) -> None:
    spoil(labelled(tmp_path / "data"))
    with pytest.raises(UsageError, match=re.escape(message)):
        load(str(FILE), [f"data={tmp_path / 'data'}"])


def test_a_bad_cifar_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3074))
    with pytest.raises(UsageError, match=r"3073 bytes a picture; .*data_batch_1\.bin has 3074 bytes"):
        load(str(FILE), [f"data={tmp_path}"])


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pictures come as"):
        load(str(FILE), [f"data={tmp_path}"])
    (tmp_path / "train").mkdir()
    with pytest.raises(UsageError, match="train must hold a folder of pictures for each class"):
        load(str(FILE), [f"data={tmp_path}"])
