"""Blocks of the documentation: the hash's runs, commands can be given, Python names what there is."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import click
import numpy as np
import pytest

import unisono
from documents import DOCUMENTS, ROOT, blocks
from unisono.checkpoint.parameters import Tensors, save, sha256_of
from unisono.cli import commands

FIELDS = {field.name for field in fields(unisono.Job)}


def python(document: str) -> list[str]:
    """Its blocks of Python; what they leave out (…) made something that can be read."""
    found = [text for language, text in blocks(document) if language == "python"]
    return [re.sub(r", …\)", ")", text).replace("…", "...") for text in found]


def given(document: str) -> list[list[str]]:
    """The arguments of `unisono` in a document's other blocks."""
    text = "\n".join(text for language, text in blocks(document) if language != "python").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if re.search(r"\bunisono (?=\w)", line) and "pip install" not in line]
    words = [shlex.split(line, comments=True) for line in lines]
    return [each[each.index("unisono") + 1 :] for each in words]


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if given(each)])
def test_commands_can_be_given(document: str) -> None:
    for name, *arguments in given(document):
        command = commands.get_command(click.Context(commands), name)
        assert command is not None, name
        command.make_context(name, arguments)


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if python(each)])
def test_python_names_what_there_is(document: str) -> None:
    for node in (node for text in python(document) for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Job":
            assert {keyword.arg for keyword in node.keywords} <= FIELDS
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "unisono":
            assert hasattr(unisono, node.attr)


def test_make_has_the_targets() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for document in (*DOCUMENTS, "CONTRIBUTING.md"):
        text = (ROOT / document).read_text()
        assert set(re.findall(r"(?:`|^ {4})make ([\w-]+)", text, re.M)) <= targets, document


def test_the_hash_is_what_its_block_computes(tmp_path: Path) -> None:
    (text,) = python("docs/determinism.md")
    saved = Tensors(
        {"b": np.arange(6, dtype="float32").reshape(2, 3), "a": np.array(7)}, {"b": "float32", "a": "int64"}
    )
    save(tmp_path / "parameters.safetensors", saved)
    command = [sys.executable, "-c", f"{text}\nprint(digest.hexdigest())"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == [sha256_of(saved)], done.stderr
