"""Data sets are downloaded once and checked; bad files are named."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from corpora.files import fetch, folder, read_bytes, read_text, recordings
from corpora.sets import SETS

from command_line import EXAMPLES
from unisono.errors import UsageError


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 120


@contextmanager
def served(place: Path) -> Iterator[str]:
    """A web server on a free port."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(place))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_files_are_downloaded_once_and_checked(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.txt").write_text("real")
    sums = {text: hashlib.sha256(text.encode()).hexdigest() for text in ("real", "other")}
    cache = tmp_path / "cache"
    with served(tmp_path / "served") as address:
        with pytest.raises(UsageError, match=f"must have the SHA-256 {sums['other']}; received {sums['real']}"):
            fetch({"a.txt": (f"{address}/a.txt", sums["other"])}, cache)
        assert not list(cache.iterdir())
        files = {"a.txt": (f"{address}/a.txt", sums["real"])}
        fetch(files, cache)
        assert (cache / "a.txt").read_text() == "real"
        (tmp_path / "served" / "a.txt").unlink()
        fetch(files, cache)
        with pytest.raises(UsageError, match=r"b\.txt could not be downloaded from .* Put a\.txt, b\.txt into "):
            fetch({**files, "b.txt": (f"{address}/b.txt", "")}, cache)


def archive(files: dict[str, bytes], prefix: str) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{prefix}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


def test_an_archive_is_known_by_its_recordings(tmp_path: Path) -> None:
    takes = {"b.wav": b"two", "a.wav": b"one"}
    (tmp_path / "new").write_bytes(archive({**takes, "README.md": b"?"}, "repacked/recordings"))
    digest = hashlib.sha256(b"a.wavoneb.wavtwo").hexdigest()
    with served(tmp_path) as address:
        fetch({"takes.tar.gz": (f"{address}/new", digest)}, tmp_path / "cache")
    assert recordings((tmp_path / "cache" / "takes.tar.gz").read_bytes()) == takes
    with pytest.raises(UsageError, match=r"recordings come as a \.tar\.gz"):
        recordings(b"<html>not found</html>")


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISONO_DATA", str(tmp_path))
    place = tmp_path / "sst2"
    place.mkdir()
    for file in SETS["sst2"]:
        (place / file).touch()
    assert folder("sst2") == place
    assert folder("sst2", "elsewhere") == Path("elsewhere")


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a data set needs a\.txt"):
        read_text(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(b"good\n\xff\n")
    with pytest.raises(UsageError, match=r"b\.txt must be UTF-8; line 2 is not"):
        read_text(tmp_path / "b.txt")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"something" * 99)[:-20])
    with pytest.raises(UsageError, match=r"c\.txt\.gz is damaged"):
        read_bytes(tmp_path / "c.txt")
