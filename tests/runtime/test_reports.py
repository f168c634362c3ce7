"""How a process says how it has ended: whole however long it is, never believed when it is half."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest

import jobs
from faults import run
from unisono.errors import JobError
from unisono.errors.failure import Failure
from unisono.errors.traces import MOST_CHARACTERS
from unisono.runtime.processes.report import Report, tell
from waiting import limit


def read_to_its_end(report: Report, file: int) -> bytes:
    text = b""
    os.set_blocking(file, True)
    while (part := report.read(file)) is not None:
        text += part
    return text


def test_a_report_longer_than_a_pipe_comes_whole_between_stacks() -> None:
    reader, writer = os.pipe()
    failure = Failure("漢" * 100_000, "at \ud800 \n" * 10, spoiled=True)

    def write() -> None:
        os.write(writer, b"Current thread:\n  File x")
        tell(writer, failure)
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    report = Report()
    assert read_to_its_end(report, reader) == b"Current thread:\n  File x\n"
    thread.join()
    os.close(reader)
    assert report.failure == failure
    assert not report.done


@pytest.mark.parametrize(
    "data", [b"", b'\0{"message": "ha', b"\0{}", b"\0[1]\n", b'\0{"other": 1}\n', b"x" * (1 << 21)]
)
def test_what_is_no_whole_report_is_none(data: bytes) -> None:
    reader, writer = os.pipe()
    thread = threading.Thread(target=lambda: (os.write(writer, data), os.close(writer)))
    thread.start()
    report = Report()
    read_to_its_end(report, reader)
    thread.join()
    os.close(reader)
    assert not report.done
    assert report.failure is None


def long_failure(outputs: Any, targets: Any) -> Any:
    raise ValueError("漢" * 40_000 + "its end")


def long_refusal(outputs: Any, targets: Any) -> Any:
    raise JobError("x" * 100_000, "y" * 100_000)


@pytest.mark.parametrize("loss", [long_failure, long_refusal])
def test_a_long_failure_is_told_cut(loss: Any) -> None:
    outcome, _, _ = run(jobs.make(loss=loss), 2)
    assert outcome.failure is not None
    assert "step 1, microbatch" in outcome.failure.message
    assert len(outcome.failure.message) < 5_000
    assert len(outcome.failure.traceback) < 2 * MOST_CHARACTERS
    assert "characters left out" in outcome.failure.traceback
    assert outcome.consistent
    if loss is long_failure:
        assert "in long_failure" in outcome.failure.traceback
        assert outcome.failure.traceback.endswith("its end")


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def unreadable(outputs: Any, targets: Any) -> Any:
    raise Unreadable


def test_an_error_that_has_no_text_is_told_by_its_class() -> None:
    outcome, _, _ = run(jobs.make(loss=unreadable), 2)
    assert outcome.failure is not None
    assert outcome.failure.message.startswith("Unreadable in the job's code (worker ")


class Closing(jobs.Mlp):
    def __init__(self) -> None:
        super().__init__()
        os.closerange(3, 4096)


def test_who_closes_files_that_are_not_its_own_is_named() -> None:
    with pytest.raises(JobError, match="the job's code has closed files that it did not open"):
        run(jobs.make(Closing), 2)


ANSWERS = """
import os, threading
from unisono.errors import JobError
from unisono.runtime.processes.job_holder import in_child
def failed(function):
    try:
        in_child(function)
    except JobError as error:
        return str(error)
killed = lambda: os.kill(os.getpid(), 9)
print(failed(threading.Lock), failed(lambda: os._exit(0)), failed(killed), failed(exit), sep="|")
print(in_child(lambda: 3))
"""


def test_a_child_that_gives_no_whole_answer_is_named() -> None:
    done = subprocess.run([sys.executable, "-c", ANSWERS], capture_output=True, text=True, timeout=limit())
    assert done.returncode == 0, done.stderr
    *told, last = done.stdout.replace("\n", "|").rstrip("|").split("|")
    wanted = ("pickle", "it ended with 0", "it was ended by SIGKILL", "the job's code called")
    assert last == "3"
    assert [next((text for text in told if each in text), None) is not None for each in wanted] == [True] * 4, told
