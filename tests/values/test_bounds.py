"""Absurd values are refused before anything is started: the bound, the rule and what was received are named."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import jobs
import unisono
from unisono import by_length, weighted
from unisono.api import evaluate, train, worlds
from unisono.cli import commands
from unisono.commands.compare import compare
from unisono.errors import JobError, UsageError
from unisono.frameworks.lossrules import check_loss
from unisono.hosts.launchers import place
from unisono.partition.batches import Batches
from unisono.partition.layout import Layout
from unisono.runs.jobfile import JobFile
from unisono.runtime.preparation.prepare import prepare
from unisono.runtime.rules.request import Request

LONG = 10**5000
"""More digits than Python writes without being asked twice."""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"steps": 2**70}, "job.steps must be a whole number from 1 to 2147483647; received 1180591620717411303424"),
        ({"steps": LONG}, r"job.steps must .*; received a number of 16610 bits"),
        ({"steps": None, "epochs": 2**31}, "job.epochs must be a whole number from 1 to 2147483647"),
        ({"steps": 3.0}, "job.steps must be a whole number"),
        ({"batch_size": "32"}, "job.batch_size must be a whole number"),
        ({"batch_size": 10**12}, "job.batch_size must be a whole number from 1 to 2147483647; received 1000000000000"),
        ({"microbatches": 10**6}, r"at most job.batch_size.*received 1000000 and batch_size=32. Write microbatches=32"),
        ({"microbatches": 10**6, "batch_size": 10**6}, "job.microbatches must be at most 65536"),
        (
            {"seed": 2**64},
            r"job.seed must be a whole number from 0 to 9223372036854775807; received 18446744073709551616",
        ),
        ({"seed": True}, "job.seed must be a whole number"),
        ({"evaluate_every": 0, "evaluation": jobs.dataset}, "job.evaluate_every must be a whole number"),
        ({"clip_norm": math.nan}, "job.clip_norm must be a number above 0; received nan"),
        ({"clip_norm": True}, "job.clip_norm must be a number above 0"),
        ({"clip_norm": 10**400}, "job.clip_norm must be a number above 0"),
        ({"clip_norm": "1"}, "job.clip_norm must be a number above 0"),
        ({"drop_last": "no"}, "job.drop_last must be True or False; received 'no'"),
        ({"order": np.arange(3)}, "job.order must be"),
        ({"precision": np.arange(3)}, "job.precision must be 'float32' or 'bfloat16' or 'tf32'"),
        ({"observers": 3}, "job.observers must be a list of functions"),
        ({"metrics": {"m" * 70_000: max}}, "a metric's name must be text of 1 to 200 characters .* received 'mmm"),
        ({"metrics": {3: max}}, "a metric's name must be text"),
        ({"metrics": {"two\nlines": max}}, "a metric's name must be text"),
        ({"evaluation": {"e" * 300: jobs.dataset}}, "the name of evaluation data must be text"),
    ],
)
def test_a_jobs_fields_have_bounds(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        jobs.make(**changes)


def test_numbers_of_numpy_are_numbers() -> None:
    job = jobs.make(batch_size=np.int64(16), microbatches=np.uint8(4), seed=np.int32(3), clip_norm=np.float32(0.5))
    assert [type(value) for value in (job.batch_size, job.microbatches, job.seed, job.clip_norm)] == [int] * 3 + [float]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"workers": 10**9}, "workers must be a whole number from 1 to 4096; received 1000000000"),
        ({"workers": True}, "workers must be a whole number"),
        ({"threads": 10**20}, "threads must be a whole number from 1 to 1024; received 100000000000000000000"),
        ({"layout": "data=99999999999999999999999"}, "a layout's data must be a whole number from 1 to 4096"),
        ({"layout": f"pipeline={'9' * 5000}"}, "a layout is data=N"),
        ({"layout": 3}, "received 3"),
        ({"host_timeout": math.nan}, "host_timeout must be a number of seconds from 1 to 1000000; received nan"),
        ({"host_timeout": math.inf}, "host_timeout must be .* received inf"),
        ({"host_timeout": -3}, "host_timeout must be .* received -3"),
        ({"stall_seconds": math.nan}, "stall_seconds must be a number of seconds above 0 and up to 1000000"),
        ({"stall_seconds": 0}, "stall_seconds must be .* received 0"),
        ({"max_time": "0s"}, "max_time takes a time such as 90s"),
        ({"max_time": "999999999d"}, "of at most 3650 days"),
        ({"max_time": 3600}, "max_time takes a time such as .* received 3600"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a whole number from 1"),
        ({"checkpoint_every": "-3"}, "checkpoint_every must be a whole number from 1"),
        ({"checkpoint_every": math.nan}, "checkpoint_every takes a time such as .* received nan"),
        ({"checkpoint_every": "²"}, "checkpoint_every takes a time"),
        ({"keep": -1}, "keep must be a whole number from 1"),
        ({"data_host": -1}, "data_host must be a whole number from 0"),
        ({"recompute": "all"}, "recompute must be 'none' or 'blocks'"),
        ({"timeline": "no"}, "timeline must be True or False; received 'no'"),
        ({"out": ""}, "out must name a folder; received ''. Write . for this one"),
        ({"out": "a\0b"}, "out must name a folder"),
        ({"out": "x" * 300}, "the out folder must be writable; .*File name too long"),
        ({"interface": ""}, "interface must be text of 1 to 200"),
        ({"resume": ""}, "resume must name a folder; received ''"),
        ({"name": "../elsewhere"}, "a run's name is a part of its folder's"),
        ({"name": ""}, "name must be text of 1 to 200"),
    ],
)
def test_a_runs_settings_have_bounds(
    settings: dict[str, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=text):
        train(jobs.make(), **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: worlds("1," + "9" * 5000), "--workers takes numbers"),
        (lambda: worlds("1,99999"), "workers must be a whole number from 1 to 4096; received 99999"),
        (lambda: unisono.verify(jobs.make(), workers=[0]), "workers must be a whole number"),
        (lambda: unisono.verify(jobs.make(), workers=3), "verify compares world sizes; received 3"),  # type: ignore[arg-type]
        (lambda: train(jobs.make(), on="ray"), "on must be a unisono.Ray; received 'ray'"),  # type: ignore[arg-type]
        (lambda: train(jobs.make(), arguments=[1]), r"arguments must map names to values; received \[1\]"),  # type: ignore[arg-type]
        (lambda: unisono.Run(Path("x"), jobs.make()).wait(math.nan), "timeout_seconds must be a number of seconds"),
        (lambda: unisono.verify(jobs.make(), steps=2**70), "steps must be a whole number"),
        (lambda: evaluate(jobs.make(), ""), "a run's directory must name a folder"),
        (lambda: unisono.open("", jobs.make()), "a run's directory must name a folder"),
        (lambda: unisono.Ray(hosts=10**9), "Ray's hosts must be a whole number from 1 to 65536; received 1000000000"),
        (lambda: unisono.Ray(ship=""), "Ray's ship must name a folder"),
        (lambda: Layout(data=True), "a layout's data must be a whole number"),
        (lambda: Batches(10, 2**40, 2, False), "batch_size must be a whole number"),
        (lambda: weighted([1.0, math.nan]), "weight 1 is nan"),
        (lambda: weighted([math.inf, 1.0]), "weight 0 is inf"),
        (lambda: weighted([0.0, 0.0]), "the sum of the 2 is 0.0"),
        (lambda: by_length([1, 2], 0), "batch_size must be a whole number from 1"),
        (lambda: compare(["/dev/zero"]), "'/dev/zero' is a folder or a device"),
        (lambda: JobFile.of("/dev/zero"), "'/dev/zero' is a folder or a device"),
        (lambda: JobFile.of("x" * 300), "a job is a Python file that can be read; .*File name too long"),
        (lambda: JobFile.of("."), "'.' is a folder or a device"),
    ],
)
def test_calls_have_bounds(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        call()


def test_a_job_file_is_no_pipe_and_no_disk_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(UsageError, match="is a folder or a device"):
        JobFile.of(f"{tmp_path}/pipe.py")
    with (tmp_path / "image.py").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match=r"of at most 16 MiB; .* has 1099511627776 bytes"):
        compare([f"{tmp_path}/image.py"])


@pytest.mark.parametrize("seed", [LONG, "9" * 5000, "²", -1, True], ids=["long", "text", "digit", "negative", "switch"])
def test_a_seed_that_is_none_is_told_by_the_job_alone(seed: object, tmp_path: Path) -> None:
    (tmp_path / "seeded.py").write_text("import jobs\ndef job(seed=0):\n    return jobs.make(seed=seed)\n")
    with pytest.raises(UsageError, match="seed must be a whole number from 0"):
        JobFile.of(f"{tmp_path}/seeded.py", (), {"seed": seed}).loaded()


def test_a_run_has_rounds_that_a_word_can_count() -> None:
    job = jobs.make(steps=2**31 - 1, evaluation=jobs.dataset, evaluate_every=2**30)
    with pytest.raises(
        UsageError, match=r"at most 2147483647 rounds.*received 2147483647 steps and 2 evaluations of 4"
    ):
        prepare(job, Request(1, 1, (0,)))


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, 1e300])
def test_a_losss_weight_has_bounds(weight: float) -> None:
    with pytest.raises(JobError, match=re.escape(f"at most 9007199254740992; it is {weight}.")):
        check_loss(1.0, weight, lambda: True)


@pytest.mark.parametrize("count", [-2.0, math.nan])
def test_a_metrics_count_has_bounds(count: float, tmp_path: Path) -> None:
    job = jobs.make(metrics={"m": lambda outputs, targets: (1.0, count)})
    with pytest.raises(
        JobError, match=rf"a metric's count must be finite and at least 0; of metrics\['m'\] it is {count}"
    ):
        train(job, debug=True, out=tmp_path / "out")


PLAIN = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("MASTER_PORT", "0"), ("MASTER_PORT", "65536"), ("WORLD_SIZE", "9" * 5000), ("RANK", "²"), ("RANK", "-1")],
)
def test_a_launchers_variables_have_bounds(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be a whole number"):
        place({**PLAIN, name: value}, "host")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "a.py", "--out", ""],
        ["train", "a.py", "--resume", ""],
        ["train", "a.py", "--steps", "9" * 5000],
        ["evaluate", "a.py", ""],
        ["predict", "a.py", "", "x"],
        ["resize", "", "1"],
        ["verify", "a.py", "--steps", "99999999999"],
        ["compare", "a.py", "--rounds", "1000000000"],
        ["partition", "a.py", "--pipeline", "1000000000"],
        ["partition", "a.py", "--threads", "100000000000000000000"],
        ["train", "a.py", "--debug", "--threads", "100000000000000000000"],
    ],
)
def test_the_commands_have_bounds(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("import jobs\ndef job():\n    return jobs.make()\n")
    done = CliRunner().invoke(commands, arguments)
    assert done.exit_code == 2 or isinstance(done.exception, UsageError), done.output
    assert [path.name for path in tmp_path.iterdir()] == ["a.py"]
