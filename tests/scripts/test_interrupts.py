"""Ctrl-C, other signals, threads, and cells that run twice: the script goes on, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paths import PYTHONPATH
from unisono.scripts.turns import interrupt, unbroken
from waiting import limit

START = """
import os, signal, sys, threading, torch, unisono
from torch import nn

tmp = sys.argv[1]

def first_time(name):
    try:
        os.close(os.open(f"{tmp}/{name}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

class Net(nn.Linear):
    def forward(self, x):
        act(x)
        return super().forward(x)

def workers():
    from unisono.scripts.pytorch.session import session
    return len(session().processes)
"""


def run(script: str, tmp_path: Path, status: int = 0, **environment: str) -> str:
    """What a script prints."""
    (tmp_path / "script.py").write_text(START + script)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path)], capture_output=True, text=True, timeout=limit(),
        env={**os.environ, "PYTHONPATH": PYTHONPATH, **environment},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_what_handlers_raise_waits_for_the_end_of_a_block() -> None:
    def refuse(number: int, frame: Any) -> None:
        raise ValueError(number)

    @unbroken()
    def work() -> None:
        with unbroken():
            os.kill(os.getpid(), signal.SIGUSR1)
        done.append("all of it")

    done: list[str] = []
    before = signal.signal(signal.SIGUSR1, refuse)
    try:
        with pytest.raises(ValueError, match="10"):
            work()
        assert done == ["all of it"]
        assert signal.getsignal(signal.SIGUSR1) is refuse
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_ends_a_block_where_that_can_end() -> None:
    @unbroken()
    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        done.append("before")
        interrupt()
        done.append("after")

    done: list[str] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert done == ["before"]
        with unbroken():
            interrupt()
    finally:
        signal.signal(signal.SIGINT, before)


INTERRUPTED = """
def act(x):
    if os.getpid() != SCRIPT and first_time(name):
        os.kill(SCRIPT, signal.SIGINT)  # which waits for this worker

SCRIPT, name = os.getpid(), "whole"
torch.manual_seed(0)
model = unisono.parallel(Net(2, 2), microbatches=2, workers=2)
x = torch.ones(16, 2)
try:
    model(x)
    print("not interrupted")
except KeyboardInterrupt:
    print("interrupted")
found = model(x)
found.sum().backward()
assert torch.equal(found, nn.functional.linear(x, model.weight, model.bias)), found
assert torch.equal(model.weight.grad, torch.full((2, 2), 16.0)), model.weight.grad
name = "last"
model(x)
"""


def test_ctrl_c_ends_the_call_and_the_next_one_goes_on(tmp_path: Path) -> None:
    told = run(INTERRUPTED, tmp_path, status=-signal.SIGINT)
    assert told.startswith("interrupted\n")
    assert told.endswith("KeyboardInterrupt\n")


IN_BACKWARD = """
class Signal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        if os.getpid() != SCRIPT and first_time("backward"):
            os.kill(SCRIPT, signal.SIGINT)  # which waits for this worker
        return gradient

class Signalling(nn.Linear):
    def forward(self, x):
        return Signal.apply(super().forward(x))

SCRIPT = os.getpid()
model = unisono.parallel(Signalling(2, 2), microbatches=4, workers=2)
x = torch.ones(16, 2)
try:
    model(x).sum().backward()
except KeyboardInterrupt:
    print("interrupted")
assert model.weight.grad is None and model.bias.grad is None
model(x).sum().backward()
assert torch.equal(model.weight.grad, torch.full((2, 2), 16.0)), model.weight.grad
assert workers() == 2, workers()
"""


def test_ctrl_c_ends_a_backward_pass_and_the_next_step_is_right(tmp_path: Path) -> None:
    assert run(IN_BACKWARD, tmp_path) == "interrupted\n"


TWICE = """
import mmap

def act(x):
    pass

CELL = '''
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(300, 300)

    def forward(self, x):
        return self.layer(x)

model = unisono.parallel(Model(), microbatches=2, workers=2)
model(torch.ones(16, 300)).sum().backward()
'''
counts = []
for _ in range(4):
    exec(compile(CELL, "<cell 1>", "exec"), globals())
    counts.append((workers(), sum("memfd:unisono" in line for line in open("/proc/self/maps"))))
assert {count for count, _ in counts} == {2}, counts
assert len({maps for _, maps in counts[1:]}) == 1, counts
again = unisono.parallel(model, microbatches=2, workers=3)
again(torch.ones(16, 300))
assert workers() == 3, workers()
"""


def test_a_cell_that_runs_again_has_no_workers_of_before(tmp_path: Path) -> None:
    run(TWICE, tmp_path)


THREADS = """
def act(x):
    pass

torch.ones(500, 500) @ torch.ones(500, 500)  # by torch's own threads
ends = threading.Event()
busy = threading.Thread(target=lambda: [None for _ in iter(ends.is_set, True)])
busy.start()
torch.manual_seed(0)
model = unisono.parallel(Net(2, 2), microbatches=2, workers=int(os.environ["UNISONO_TESTED"]))
batches = [torch.randn(16, 2, requires_grad=True) for _ in range(4)]
def pass_through(x):
    for _ in range(5):
        x.grad = None
        model(x).square().sum().backward(inputs=[x])
threads = [threading.Thread(target=pass_through, args=[x]) for x in batches]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ends.set()
for x in batches:
    expected = (2 * nn.functional.linear(x, model.weight, model.bias) @ model.weight).detach()
    torch.testing.assert_close(x.grad, expected)
"""


@pytest.mark.few("0")
@pytest.mark.parametrize("workers", ["0", "2"])
def test_threads_of_the_script_call_one_after_another(workers: str, tmp_path: Path) -> None:
    run(THREADS, tmp_path, UNISONO_TESTED=workers)


REPLACED = """
def act(x):
    pass

model = unisono.parallel(Net(2, 2), microbatches=2, workers=1)
before = model(torch.ones(16, 2))
model.log = threading.Lock()
try:
    model(torch.ones(16, 2))
except unisono.UsageError as error:
    print(error)
del model.log
assert torch.equal(model(torch.ones(16, 2)), before)
"""


def test_what_is_refused_between_calls_can_be_taken_back(tmp_path: Path) -> None:
    assert "Net.log (a lock)" in run(REPLACED, tmp_path)


MEMORY = """
from unisono.scripts.pytorch import crew

def act(x):
    if x[0, 0] == 1:
        raise MemoryError
    if x[0, 0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)

counted = iter(range(1000))
crew.out_of_memory_kills = lambda: next(counted)  # as if the kernel's had been one more each time
model = unisono.parallel(Net(2, 2), microbatches=2, workers=1)
for number in (1.0, 2.0):
    try:
        model(torch.full((16, 2), number))
    except unisono.JobError as error:
        print(error)
model(torch.zeros(16, 2))
"""


def test_memory_that_runs_out_is_named_with_the_ways_out(tmp_path: Path) -> None:
    told = run(MEMORY, tmp_path)
    ways = "Fewer workers keep the result; more microbatches need less memory each but change it."
    assert "out of memory in a parallel call (Net, called at" in told
    assert f"forward pass of the whole batch). {ways}" in told
    assert "killed because memory ran out, 3 times in a row at microbatch 0 of the same call. " + ways in told
