"""Pictures with their classes: MNIST's and CIFAR-10's files, or a folder of PNG or JPEG files for each class."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corpora.files import found, read_bytes
from unisono import UsageError

FASHION_CLASSES = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip
Shape = tuple[int, int, int]
"""Height, width, channels."""


@dataclass(frozen=True)
class Pictures:
    """Pictures with their classes: (uint8 (height, width, channels), class) each.

    Attributes:
        images: all of them, uint8 (pictures, height, width, channels), or files that are read when they are needed.
        classes: of each.
        shape: of a picture; files of another size are resized.
    """

    images: NDArray[np.uint8] | Sequence[Path]
    classes: NDArray[np.int64]
    shape: Shape

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        image = self.images[index]
        return picture(image, self.shape) if isinstance(image, Path) else image, int(self.classes[index])

    def part(self, chosen: slice) -> Pictures:
        """Some of them."""
        return Pictures(self.images[chosen], self.classes[chosen], self.shape)


class Augmented:
    """Training pictures, each time moved by up to `most` pixels, some of them mirrored and some with a part hidden."""

    def __init__(self, pictures: Pictures, most: int, mirror: bool) -> None:
        self.pictures, self.most, self.mirror = pictures, most, mirror

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        image, label = self.pictures[index]
        size = np.array(image.shape[:2])
        moves = np.random.randint(-self.most, self.most + 1, 2)
        rows, columns = (np.clip(np.arange(n) + move, 0, n - 1) for n, move in zip(size, moves, strict=True))
        if self.mirror and np.random.random() < 0.5:
            columns = columns[::-1]
        image = image[rows[:, None], columns]
        if np.random.random() < 0.5:
            (top, left), (height, width) = np.random.randint(0, size), np.random.randint(1, size // 2 + 1)
            image[top : top + height, left : left + width] = np.random.randint(0, 256)
        return image, label


def picture(path: Path, shape: Shape) -> NDArray[np.uint8]:
    """A picture file as uint8 of this shape.

    Raises:
        UsageError: it is no picture, or a damaged one.
    """
    try:
        with Image.open(path) as image:
            converted = image.convert("L" if shape[2] == 1 else "RGB").resize((shape[1], shape[0]))
    except (OSError, SyntaxError) as error:
        raise UsageError(f"a picture must be a sound PNG or JPEG file; {path} is not ({error}).") from error
    return np.asarray(converted).reshape(shape)


def pictures(place: Path) -> tuple[dict[str, Pictures], list[str]]:
    """A folder's "train", "dev" and "test" pictures, and the names of the classes.

    It holds MNIST's IDX files, or CIFAR-10's binary ones, or the folders train, dev and test with a folder of PNG or
    JPEG files for each class. Without "dev" it is the last twelfth of "train".

    Raises:
        UsageError: a file is missing or damaged, or a class has no training picture; the file is named.
    """
    if found(place / "train-images-idx3-ubyte"):
        sets = {"train": _idx(place, "train"), "test": _idx(place, "t10k")}
    elif (place / "data_batch_1.bin").is_file():
        parts = [_cifar(place / f"data_batch_{number}.bin") for number in range(1, 6)]
        images, classes = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "classes"))
        sets = {"train": Pictures(images, classes, parts[0].shape), "test": _cifar(place / "test_batch.bin")}
    elif (place / "train").is_dir():
        return _folders(place)
    else:
        raise UsageError(
            "pictures come as train-images-idx3-ubyte and its like (IDX), as data_batch_1.bin and its like (CIFAR-10), "
            f"or as train/CLASS/PICTURE.png; {place} has none of them."
        )
    known = sorted({int(label) for label in sets["train"].classes})
    for label in sets["test"].classes:
        if label not in known:
            raise UsageError(
                f"classes are those of the training pictures, {known}; a test picture in {place} has {label}."
            )
    kept = len(sets["train"]) * 11 // 12
    sets["train"], sets["dev"] = sets["train"].part(slice(kept)), sets["train"].part(slice(kept, None))
    return sets, [str(number) for number in range(known[-1] + 1)]


def _idx(place: Path, name: str) -> Pictures:
    images = _array(place / f"{name}-images-idx3-ubyte", dimensions=3)
    classes = _array(place / f"{name}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(classes):
        raise UsageError(
            f"each picture has a class; {place} has {len(images)} {name} pictures, {len(classes)} classes."
        )
    return Pictures(images[..., None], classes.astype(np.int64), (*images.shape[1:], 1))


def _array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An IDX file: 0, 0, 8 (bytes), the number of dimensions, each dimension as four bytes, then the values."""
    content = read_bytes(path)
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, 8, dimensions]):
        raise UsageError(f"an IDX file of {dimensions} dimensions begins with 0 0 8 {dimensions}; {path} does not.")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise UsageError(f"{path} must have {math.prod(shape)} values {shape}; received {len(content) - start}.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _cifar(path: Path) -> Pictures:
    content = np.frombuffer(read_bytes(path), np.uint8)
    if content.size == 0 or content.size % 3073:
        raise UsageError(f"a CIFAR-10 file holds 3073 bytes a picture; {path} has {content.size} bytes.")
    table = content.reshape(-1, 3073)
    images = table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Pictures(np.ascontiguousarray(images), table[:, 0].astype(np.int64), (32, 32, 3))


def _folders(place: Path) -> tuple[dict[str, Pictures], list[str]]:
    names = sorted(path.name for path in (place / "train").iterdir() if path.is_dir())
    found: dict[str, list[tuple[Path, int]]] = {name: [] for name in ("train", "dev", "test")}
    shape: Shape | None = None
    for name, files in found.items():
        for path in sorted((place / name).glob("*/*")):
            if path.parent.name not in names:
                raise UsageError(f"classes are those of {place / 'train'}, {', '.join(names)}; received {path.parent}.")
            try:
                with Image.open(path) as image:
                    shape = shape or (image.height, image.width, 1 if image.mode in ("1", "L") else 3)
                    image.verify()
            except (OSError, SyntaxError) as error:
                raise UsageError(f"a picture must be a sound PNG or JPEG file; {path} is not ({error}).") from error
            files.append((path, names.index(path.parent.name)))
    if not found["dev"]:
        found["dev"], found["train"] = found["train"][11::12], [f for i, f in enumerate(found["train"]) if i % 12 != 11]
    for name, files in found.items():
        if not files:
            raise UsageError(f"{place / name} must hold a folder of pictures for each class; it has none.")
    assert shape is not None
    return {
        name: Pictures([path for path, _ in files], np.array([number for _, number in files]), shape)
        for name, files in found.items()
    }, names
