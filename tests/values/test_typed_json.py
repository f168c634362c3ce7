"""Arguments of a job come back from run.json with their types."""

from __future__ import annotations

import json
import subprocess
import sys
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs
import unisono
from test_cli import environment
from unisono.errors import UsageError
from unisono.runs.jobfile import JobFile
from unisono.values.typed_json import MOST_ELEMENTS, arguments_read, arguments_written, read, written
from waiting import limit


class Colour(Enum):
    RED = 1
    BLUE = 2


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        7,
        -(2**100),
        0.1,
        -0.0,
        float("inf"),
        "3",
        "true",
        "漢\ud800",
        1 - 2j,
        Path("a/b"),
        b"\x00\xff",
        (),
        (1, ("2", None)),
        [1, (2,)],
        {1, "1", 1.5},
        frozenset({(1, 2)}),
        {"a": Path("b")},
        {"type": "Path", "value": "a"},
        {1: "a", (2,): b"b"},
        range(1, 9, 2),
        np.float32(0.1),
        np.int64(3),
        np.bool_(True),
        np.str_("x"),
        np.float16("inf"),
        np.arange(6, dtype=">i2").reshape(2, 3),
        np.array([0.1, np.inf, -0.0], np.float32),
        np.zeros((0, 3)),
        np.array(5),
        np.array([1j]),
        np.array(["a", "bc"]),
        np.array([b"a"]),
        np.array([True]),
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_a_value_comes_back_with_its_type(value: Any) -> None:
    came = read(json.loads(json.dumps(written(value), allow_nan=False)))
    assert type(came) is type(value)
    assert repr(came) == repr(value) or came == value
    if isinstance(value, np.ndarray):
        assert (came.dtype, came.shape, came.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_a_nan_comes_back() -> None:
    assert np.isnan(read(json.loads(json.dumps(written((float("nan"), np.float32("nan"))), allow_nan=False)))).all()


@pytest.mark.parametrize("default", [Colour.RED, Level.LOW])
def test_an_enum_comes_back_by_the_defaults_class(default: Enum) -> None:
    other = list(type(default))[1]
    kept = json.loads(json.dumps(arguments_written({"x": other}, {"x": default})))
    assert arguments_read(kept, {"x": default})["x"] is other
    with pytest.raises(UsageError, match=r"what run.json holds of 'x' is none"):
        arguments_read(kept, {"x": None})


@pytest.mark.parametrize(
    "value", [object(), max, np.zeros(MOST_ELEMENTS + 1), np.array([object()]), np.longdouble(1), [object()]]
)
def test_what_cannot_be_kept_is_refused_unless_the_file_gives_it(value: Any) -> None:
    with pytest.raises(UsageError, match=r"arguments are kept in run.json.*received x=.*Give what it is made from"):
        arguments_written({"x": value}, {})
    kept = json.loads(json.dumps(arguments_written({"x": value}, {"x": value})))
    assert arguments_read(kept, {"x": value})["x"] is value


def test_a_list_in_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UsageError, match="arguments are kept"):
        arguments_written({"x": endless}, {})


@pytest.mark.parametrize(
    "value",
    [
        {"type": "eval", "value": "1"},
        {"type": [], "value": 1},
        {"type": "Path", "value": 3},
        {"type": "bytes", "value": "é"},
        {"type": "set", "value": [[1]]},
        {"type": "tuple", "value": 3},
        {"type": "range", "value": [1, 2, 0]},
        {"type": "array", "value": {"dtype": "O", "shape": [1], "elements": [1]}},
        {"type": "array", "value": {"dtype": "<f8", "shape": [9], "elements": []}},
        {"type": "array", "value": {"dtype": "<U999999999", "shape": [1], "elements": ["a"]}},
        {"type": "enum", "value": "X"},
    ],
)
def test_what_nobody_has_written_is_told(value: Any) -> None:
    with pytest.raises(UsageError, match=r"what run.json holds of 'x' is none: .*Give it anew: x=VALUE"):
        arguments_read({"x": value}, {"x": 1})


def test_an_argument_that_is_no_more_is_told() -> None:
    with pytest.raises(UsageError, match="holds 'old', which the job's function does not take: it takes lr"):
        arguments_read({"old": 1}, {"lr": 0.1})


def test_a_callers_arguments_are_checked_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"arguments are kept in run.json"):
        unisono.train(jobs.make(), arguments={"model": object()}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    unisono.train(jobs.make(steps=1), arguments={"where": Path("x")}, out=tmp_path / "out", debug=True)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["arguments"] == {
        "where": {"type": "Path", "value": "x"}
    }


ALL_KINDS = """
import enum, pathlib
import numpy as np, torch, jobs
class Colour(enum.Enum):
    RED = 1
    BLUE = 2
def job(where=pathlib.Path("data"), text=None, lr=0.1, rate=np.float32(0.1), table=np.arange(3), raw=b"ab",
        pair=(1, "2"), some=frozenset({3}), nothing=None, optimizer=torch.optim.SGD, colour=Colour.RED, steps=2):
    with open("seen", "a") as file:
        file.write(repr((where, text, lr, rate, table, raw, pair, some, nothing, optimizer, colour)) + chr(10))
    return jobs.make(steps=steps)
"""


def test_arguments_come_back_with_their_types(tmp_path: Path) -> None:
    (tmp_path / "kinds.py").write_text(ALL_KINDS)

    def unisono_train(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "unisono", "train", "kinds.py", "--workers", "1", *arguments],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=limit(),
        )
        assert done.returncode == 0, done.stderr

    unisono_train("where=elsewhere", "text='3'", "lr=1", "colour=BLUE", "--out", "out")
    (tmp_path / "kinds.py").write_text(
        ALL_KINDS.replace('raw=b"ab"', 'raw=b"cd"')
    )  # what the run had is what it goes on with
    unisono_train("--resume", "out", "steps=3")
    first, again = (tmp_path / "seen").read_text().splitlines()
    assert first == again
    assert "PosixPath('elsewhere'), '3', 1.0" in first
    kept = json.loads((tmp_path / "out" / "run.json").read_text())["arguments"]
    assert (kept["text"], kept["lr"], kept["steps"]) == ("3", 1.0, 3)
    assert kept["optimizer"] == {"type": "default", "value": "the job function's own"}


def test_a_text_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "texts.py").write_text(
        "import jobs\ndef job(x=None):\n    assert x == '3', x\n    return jobs.make()\n"
    )
    assert JobFile.of(f"{tmp_path}/texts.py", kept={"x": "3"}).loaded().arguments == {"x": "3"}
