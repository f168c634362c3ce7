"""The examples run as their first lines say."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from commands import EXAMPLES, losses, train, unisono, verified
from unisono.errors import UsageError
from unisono.jobfile import load


def test_digits_then_finetune(tmp_path: Path) -> None:
    records = train(EXAMPLES / "digits_torch.py", "epochs=8", out=tmp_path / "backbone")
    assert records[-1]["evaluation/accuracy"] >= 0.96
    backbone = tmp_path / "backbone" / "parameters.safetensors"
    records = train(EXAMPLES / "finetune.py", f"backbone={backbone}", out=tmp_path / "fine")
    assert records[-1]["evaluation/f1"] >= 0.9


def test_the_language_model_learns_a_text(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    settings = ["layers=2", "width=32", "context=16", "steps=60", "warmup=5", "lr=1e-2", f"data={text}"]
    records = train(EXAMPLES / "language.py", *settings, out=tmp_path / "gpt")
    assert losses(records)[-1] < 0.5 * losses(records)[0]
    assert {"gradient_norm", "learning_rate"} <= set(records[0])
    assert records[0]["learning_rate"] < records[4]["learning_rate"]


def reviews(folder: Path, suffix: str, separator: str, header: str = "") -> Path:
    folder.mkdir()
    good, bad = ["好 a fine film", "很好 truly moving"], ["差 a dull mess", "很差 truly awful"]
    for name, copies in (("train", 40), ("dev", 10), ("test", 10)):
        lines = [f"{text} {name}{separator}{label}" for label, texts in (("pos", good), ("neg", bad)) for text in texts]
        (folder / f"{name}{suffix}").write_text(header + "\n".join(lines * copies) + "\n")
    return folder


@pytest.mark.parametrize(
    ("example", "table"), [("text", (".csv", ",", "text,label\n")), ("sentiment_zh", (".tsv", "\t"))]
)
def test_texts_are_classified(example: str, table: tuple[str, ...], tmp_path: Path) -> None:
    file, data = EXAMPLES / f"{example}.py", reviews(tmp_path / "data", *table)
    verified(file, f"data={data}")
    records = train(file, f"data={data}", "epochs=6", out=tmp_path / "run")
    assert losses(records)[-1] < 0.5 * losses(records)[0]
    assert unisono("predict", file, tmp_path / "run", "很好 a fine film").startswith("pos  ")


@pytest.mark.parametrize(
    ("file", "line", "text"),
    [
        ("dev.tsv", "\tpos", "dev.tsv, line 2, has ['', 'pos']"),
        ("dev.tsv", "only a text", "dev.tsv, line 2, has ['only a text']"),
        ("test.tsv", "a text\todd", "test.tsv, line 2, has 'odd'"),
    ],
)
def test_a_bad_row_is_named_before_training(file: str, line: str, text: str, tmp_path: Path) -> None:
    data = reviews(tmp_path / "data", ".tsv", "\t")
    (data / file).write_text(f"a fine film\tpos\n{line}\n")
    with pytest.raises(UsageError, match=re.escape(text)):
        load(str(EXAMPLES / "text.py"), [f"data={data}"])


def test_a_data_set_is_downloaded_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpora: Any = load_module()
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.txt").write_text("real")
    monkeypatch.setenv("UNISONO_DATA", str(tmp_path / "cache"))
    with served(tmp_path / "served") as address:
        sums = {text: hashlib.sha256(text.encode()).hexdigest() for text in ("real", "other")}
        with pytest.raises(UsageError, match=f"must have the SHA-256 {sums['other']}; received {sums['real']}"):
            corpora.folder("set", {"a.txt": (f"{address}/a.txt", sums["other"])})
        files = {"a.txt": (f"{address}/a.txt", sums["real"])}
        assert (corpora.folder("set", files) / "a.txt").read_text() == "real"
        (tmp_path / "served" / "a.txt").unlink()
        assert corpora.folder("set", files) == tmp_path / "cache" / "set"
        with pytest.raises(UsageError, match=r"b\.txt could not be downloaded from .* Put a\.txt, b\.txt into "):
            corpora.folder("set", {**files, "b.txt": (f"{address}/b.txt", "")})
    with pytest.raises(UsageError, match=r"a data set needs a\.txt"):
        corpora.read_text(tmp_path / "a.txt")


def load_module() -> Any:
    specification = importlib.util.spec_from_file_location("corpora_under_test", EXAMPLES / "corpora.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["corpora_under_test"] = module
    specification.loader.exec_module(module)
    return module


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server on a free port."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
