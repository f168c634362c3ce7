"""Blocks of the documentation run as they stand or name what there is; its tables are those of the results."""

from __future__ import annotations

import ast
import importlib.util
import json
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
from documents import DOCUMENTS, FENCE, ROOT, blocks, fences
from unisono.checkpoint.parameters import Tensors, save, sha256_of
from unisono.cli import commands
from waiting import limit

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


NEED_A_CLUSTER = "docs/clusters/"
"""Whose fences are what a launcher reads; `make test-hosts` starts such runs."""
RUN = [
    each for each in DOCUMENTS if not each.startswith(NEED_A_CLUSTER) and any(name == "sh" for name, _ in fences(each))
]


def file_of(text: str) -> str | None:
    """The file that a block of Python is: what its first line names."""
    named = re.match(r"# (\w+\.py)$", text, re.M)
    return named and named[1]


def outputs(document: str, folder: Path) -> list[str]:
    """What the commands in a document's fences print, run one after another beside the files in its fences."""
    for _, text in fences(document):
        if (name := file_of(text)) is not None:
            (folder / name).write_text(text)
    lines = [line for name, text in fences(document) if name == "sh" for line in text.splitlines()]
    found = []
    for program, *arguments in (shlex.split(line, comments=True) for line in lines):
        command = {"unisono": [sys.executable, "-m", "unisono"], "python": [sys.executable]}[program]
        done = subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=limit())
        assert done.returncode == 0, f"{program} {shlex.join(arguments)}\n{done.stdout}{done.stderr}"
        found.append(done.stdout)
    return found


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if fences(each)])
def test_a_fence_is_run_or_leaves_something_out(document: str) -> None:
    for language, text in fences(document):
        left_out = language == "text" or "…" in text or "..." in text or document.startswith(NEED_A_CLUSTER)
        assert left_out or (document in RUN and (language == "sh" or file_of(text))), text


@pytest.mark.few("README.md")
@pytest.mark.parametrize("document", RUN)
def test_what_stands_in_fences_runs(document: str, tmp_path: Path) -> None:
    printed = outputs(document, tmp_path)
    if document == "README.md":
        alone, four, *_ = (re.findall(r"^parameters (\w{64})$", text, re.M) for text in printed)
        assert alone == four != []


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


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md"])
def test_links_lead_to_files(document: str) -> None:
    text = FENCE.sub("", (ROOT / document).read_text())
    found = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]
    files = [each.partition("#")[0] for each in found if not re.match(r"https?:|#", each)]
    assert [each for each in files if not ((ROOT / document).parent / each).exists()] == []


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


def test_tables_are_those_of_the_results() -> None:
    spec = importlib.util.spec_from_file_location("fill", ROOT / "docs" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    page, layouts = fill.PAGE.read_text(), fill.LAYOUTS.read_text()
    assert page == fill.filled(page, "ease", fill.ease())
    assert page == fill.filled(page, "performance", (fill.RESULTS / "frameworks.md").read_text())
    assert layouts == fill.filled(layouts, "pipeline", (fill.RESULTS / "pipeline.md").read_text())


def test_the_tour_names_what_there_is() -> None:
    text, source = (ROOT / "docs" / "architecture.md").read_text(), ROOT / "src" / "unisono"
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", text))
    assert [path for path in named if not any((where / path).exists() for where in (source, ROOT))] == []
    assert {f"{package.parent.name}/" for package in source.glob("*/__init__.py")} <= named


def test_the_picture_shows_what_its_caption_says() -> None:
    worlds = json.loads((ROOT / "benchmarks" / "results" / "worlds.json").read_text())
    ddp, unisono = ([*worlds[name].values()] for name in ("ddp", "unisono"))
    assert all(run["sha256"] == run["sha256_again"] for run in ddp)
    assert len({run["sha256"] for run in ddp}) == len(ddp) == 3
    assert all(run["losses"] == unisono[0]["losses"] and run["sha256"] == unisono[0]["sha256"] for run in unisono)
    assert sum(len(run["kills"]) for run in unisono) == 6


def test_rows_of_the_matrix_are_tests_of_the_contract() -> None:
    page = (ROOT / "docs" / "choosing-a-framework.md").read_text()
    table = page.partition("<!-- begin compatibility -->")[2].partition("<!-- end")[0]
    rows = re.findall(r"^\| ([a-z ]+) \| [✓✗–]", table, re.M)
    contract = ast.parse((ROOT / "tests" / "frameworks" / "test_contract.py").read_text())
    tests = {node.name for node in contract.body if isinstance(node, ast.FunctionDef)}
    assert rows
    assert {f"test_{row.replace(' ', '_')}" for row in rows} <= tests
