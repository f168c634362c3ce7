"""Files of data sets: downloaded once, checked, read with care."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import urllib.request
import zlib
from collections.abc import Mapping
from pathlib import Path

from corpora.sets import SETS
from unisono import UsageError

SECONDS = 60
"""How long a server may be silent."""


def folder(name: str, data: str = "") -> Path:
    """Where a data set's files are.

    Args:
        name: of the data set (see sets.py): its folder under $UNISONO_DATA, or under ~/.cache/unisono. Files that it
            lacks, as they are or as .gz, are downloaded.
        data: a folder of one's own to take instead.

    Raises:
        UsageError: a file is not there, cannot be had, or has another checksum.
    """
    if data:
        return Path(data)
    place = Path(os.environ.get("UNISONO_DATA") or Path.home() / ".cache" / "unisono") / name
    fetch(SETS[name], place)
    return place


def fetch(files: Mapping[str, tuple[str, str]], place: Path) -> None:
    """Download what a folder lacks.

    Args:
        files: file name → (address, SHA-256), see `SETS`.
        place: the folder.

    Raises:
        UsageError: a file cannot be had, or has another checksum.
    """
    for file, (address, digest) in files.items():
        if not found(place / file):
            place.mkdir(parents=True, exist_ok=True)
            _download(address, digest, place / file, f"Put {', '.join(files)} into {place}, or write data=FOLDER.")


def _download(address: str, digest: str, path: Path, way_out: str) -> None:
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            content = answer.read()
    except OSError as error:
        raise UsageError(f"{path.name} could not be downloaded from {address} ({error}). {way_out}") from error
    received = _digest(path.name, content)
    if received != digest:
        raise UsageError(f"{address} must have the SHA-256 {digest}; received {received}. {way_out}")
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)


def _digest(name: str, content: bytes) -> str:
    if not name.endswith(".tar.gz"):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    for file, recording in sorted(recordings(content).items()):
        digest.update(file.encode() + recording)
    return digest.hexdigest()


def recordings(archive: bytes) -> dict[str, bytes]:
    """The .wav files in a .tar.gz: name → content.

    Raises:
        UsageError: it is no archive, or a damaged one.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            members = [member for member in tar if member.isfile() and member.name.endswith(".wav")]
            return {Path(member.name).name: tar.extractfile(member).read() for member in members}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UsageError(
            f"recordings come as a .tar.gz; received something else or a damaged one ({error})."
        ) from error


def found(path: Path) -> Path | None:
    """The file, as it is or as .gz."""
    return next((place for place in (path, path.with_name(f"{path.name}.gz")) if place.is_file()), None)


def read_text(path: Path) -> str:
    """A UTF-8 file, as it is or as .gz.

    Raises:
        UsageError: it is not there, or not UTF-8.
    """
    content = read_bytes(path)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{path} must be UTF-8; line {line} is not ({error.reason}).") from error


def read_bytes(path: Path) -> bytes:
    """A file's content, as it is or as .gz.

    Raises:
        UsageError: it is not there, or its .gz is damaged.
    """
    place = found(path)
    if place is None:
        raise UsageError(f"a data set needs {path.name}; {path.parent} has none.")
    try:
        return gzip.decompress(place.read_bytes()) if place.suffix == ".gz" else place.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{place} is damaged ({error}). Remove it, and it is downloaded again.") from error
