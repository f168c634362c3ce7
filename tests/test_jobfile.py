"""FILE.py[:NAME] key=value."""

from __future__ import annotations

from pathlib import Path

import pytest

from unisono.errors import JobError, UsageError
from unisono.jobfile import load

TEXT = """
import jobs
def job(lr=0.1, steps=3, name="a", deep=False):
    return jobs.make(steps=steps)
ready = jobs.make(steps=2)
def broken():
    return 1 / 0
def other():
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "some_job.py"
    path.write_text(TEXT)
    return str(path)


def test_arguments_take_the_types_of_the_defaults(file: str) -> None:
    loaded = load(file, ["lr=3e-4", "steps=7", "deep=yes"])
    assert loaded.job.steps == 7
    assert loaded.arguments == {"lr": 3e-4, "steps": 7, "name": "a", "deep": True}
    assert load(f"{file}:ready").job.steps == 2


@pytest.mark.parametrize(
    ("suffix", "arguments", "error", "text"),
    [
        ("", ["size=3"], UsageError, "one of lr, steps, name, deep; received 'size=3'"),
        ("", ["steps=x"], UsageError, "steps takes a int"),
        (":nothing", [], UsageError, "must define 'nothing'"),
        (":ready", ["a=1"], UsageError, "takes no key=value"),
        (":other", [], UsageError, "returned int"),
        (":broken", [], JobError, "ZeroDivisionError"),
        ("x", [], UsageError, "does not exist"),
    ],
)
def test_what_is_wrong_is_named(
    file: str, suffix: str, arguments: list[str], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        load(file + suffix, arguments)


def test_a_file_that_is_not_python_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.py"
    path.write_text("no python at all")
    with pytest.raises(UsageError, match="is not"):
        load(str(path))
