"""Calls of a script computed by workers: one hash whoever computes and dies, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from paths import PYTHONPATH
from script_runs import run
from waiting import limit, until

HERE = Path(__file__).parent

START = """
import hashlib, os, signal, sys, torch, torch.nn.functional as F, unisono
from torch import nn

workers, tmp = int(sys.argv[1]), sys.argv[2]

def digest(*modules):
    values = [value for module in modules for value in module.state_dict().values()]
    print(hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest())
"""

LOOP = (
    START
    + """
from unisono.runtime.rules import stalls
from unisono.scripts.pytorch import rows, sums
stalls.FLOOR_SECONDS = 2.0
sums.SMALL_BYTES = int(os.environ.get("SMALL_BYTES", 0))
number, dying = int(sys.argv[3]), sys.argv[4:]

def once(name):
    \"\"\"Send oneself a signal, the first time that anybody comes by.\"\"\"
    if name in dying and os.getpid() != SCRIPT:
        try:
            os.close(os.open(f"{tmp}/{name}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), number)

class Dying(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        once("forward")
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        once("backward")
        return gradient

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.head, self.scale = nn.Linear(16, 3), 1.0

    def forward(self, x):
        if os.getpid() != SCRIPT and "add" in dying:
            rows._added = dying_sum
        outputs = Dying.apply(self.head(self.body(x))) * self.scale
        self.body.eval()  # for the rest of this microbatch
        return outputs

added = rows._added

def dying_sum(*arguments):
    once("add")
    return added(*arguments)

SCRIPT = os.getpid()
torch.manual_seed(0)
model, critic = Net(), nn.Linear(3, 1)
optimizer = torch.optim.Adam([*model.parameters(), *critic.parameters()], lr=0.01)
model, optimizer = unisono.parallel(model, optimizer, microbatches=5, workers=workers)
critic = unisono.parallel(critic, microbatches=5, workers=workers)
x, y = torch.randn(33, 6), torch.randint(0, 3, (33,))
for step in range(5):
    optimizer.zero_grad()
    out = model(x)
    if step == 2 and workers:
        model.resize(workers + 1)  # between a call and its backward pass
    (F.cross_entropy(out, y) + critic(out).mean()).backward()
    optimizer.step()
    model.scale += 0.5
    if step == 3 and workers:
        model.resize(workers)
    with torch.no_grad():
        model(x[:7])
digest(model, critic)
"""
)


def test_one_hash_for_any_number_of_workers_through_deaths(tmp_path: Path) -> None:
    alone = run(LOOP, tmp_path, 0, tmp_path, 0)
    assert run(LOOP, tmp_path, 2, tmp_path, 9, "forward", "backward", "add") == alone
    assert {path.name for path in tmp_path.iterdir()} >= {"forward", "backward", "add"}, "all have died"
    assert run(LOOP, tmp_path, 3, tmp_path, 9, SMALL_BYTES="1000000") == alone, "what is small is added here"


def test_workers_that_are_stopped_are_replaced(tmp_path: Path) -> None:
    alone = run(LOOP, tmp_path, 0, tmp_path, 0).splitlines()
    stopped = run(LOOP, tmp_path, 2, tmp_path, int(signal.SIGSTOP), "forward", "backward").splitlines()
    assert [line for line in stopped if "SIGSTOP" not in line] == alone
    assert len(stopped) == len(alone) + 2, "each is said"


HANGING = (
    START
    + """
import threading
from resource import RUSAGE_SELF, getrusage
from unisono.scripts.pytorch import hangs
hangs.ASLEEP_SECONDS = 2.0

class Net(nn.Linear):
    def forward(self, x):
        if x[0, 0] == 1:
            threading.Lock().acquire() and threading.Event().wait()  # the line
        elif x[0, 0] == 2:
            before = getrusage(RUSAGE_SELF).ru_utime
            while getrusage(RUSAGE_SELF).ru_utime < before + 2.5:
                sum(range(100_000))
        return super().forward(x)

model = unisono.parallel(Net(2, 2), microbatches=2, workers=workers)
x = torch.zeros(16, 2)
model(x)
model(torch.cat([x[:8], x[:8] + 2]))  # which computes for longer
x[0] = 1
try:
    model(x)
except unisono.JobError as error:
    print(error)
model(torch.zeros(16, 2))
"""
)


def test_a_call_that_hangs_is_given_up_and_one_that_computes_is_not(tmp_path: Path) -> None:
    told = run(HANGING, tmp_path, 1, tmp_path)
    line = HANGING[: HANGING.index("# the line")].count("\n") + 1
    assert "made no progress and was ended, 3 times in a row at microbatch 0 of the same call" in told
    assert told.count("and is replaced; it stands here") == 3, told
    assert told.count(f", line {line} in forward") == 3, told


DYING_IDLE = (
    START
    + """
from pathlib import Path
os.environ["SCRIPT"] = str(os.getpid())

class Net(nn.Linear):
    def __setstate__(self, state):
        super().__setstate__(state)
        if os.getpid() != int(os.environ["SCRIPT"]):
            (Path(tmp) / f"came-{os.getpid()}").touch()
            if len(list(Path(tmp).glob("came-*"))) > 2:
                (Path(tmp) / f"died-{os.getpid()}").touch()
                os._exit(3)

    def forward(self, x):
        while os.getpid() != int(os.environ["SCRIPT"]) and len(list(Path(tmp).glob("died-*"))) < 9:
            os.sched_yield()
        return super().forward(x)

model = unisono.parallel(Net(2, 2), microbatches=2, workers=workers)
try:
    model(torch.zeros(16, 2))
except unisono.JobError as error:
    print(error)
"""
)


def test_workers_that_die_with_nothing_to_do_are_not_replaced_for_ever(tmp_path: Path) -> None:
    assert "3 times in a row before it could work" in run(DYING_IDLE, tmp_path, 3, tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [1, 3])
def test_one_hash_for_more_numbers(workers: int, tmp_path: Path) -> None:
    alone = run(LOOP, tmp_path, 0, tmp_path, 0)
    assert run(LOOP, tmp_path, workers, tmp_path, 0) == alone
    assert run(LOOP, tmp_path, workers, tmp_path, 9, "forward", "backward") == alone


@pytest.mark.thorough
def test_every_promise_of_a_call_holds_with_workers(tmp_path: Path) -> None:
    files = [str(HERE / "test_calls.py"), str(HERE / "test_cuts.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--noconftest", *files],
        cwd=HERE.parent.parent, capture_output=True, text=True, timeout=limit(),
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "UNISONO_TESTED_WORKERS": "2"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


FAILING = (
    START
    + """
class Net(nn.Linear):
    def forward(self, x):
        print("in the model")
        if (x < 0).any():
            raise ValueError("a negative number")
        return super().forward(x)

model = unisono.parallel(Net(2, 2), microbatches=2, workers=workers)
assert model(torch.ones(16, 2)).shape == (16, 2)
try:
    model(torch.arange(-1.0, 31.0).reshape(16, 2))  # the line
except unisono.JobError as error:
    assert str(error).endswith("ValueError: a negative number"), error
    print(error)
assert model(torch.ones(16, 2)).shape == (16, 2)
"""
)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_model_raises_is_told_and_the_next_call_goes_on(workers: int, tmp_path: Path) -> None:
    told = run(FAILING, tmp_path, workers, tmp_path)
    line = FAILING[: FAILING.index("# the line")].count("\n") + 1
    assert f"ValueError in a parallel call (Net, called at {tmp_path / 'script.py'}:{line}; forward pass of" in told
    assert "in the model\n" in told


SHARING = (
    START
    + """
import io
from torch.utils.data import DataLoader

class Data:
    def __len__(self):
        return 8

    def __getitem__(self, index):
        found = model(torch.ones(4, 2)).detach()[0]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        return found

model = unisono.parallel(nn.Linear(2, 2), microbatches=2, workers=workers)
before = model(torch.ones(4, 2)).detach()[0]
loader = DataLoader(Data(), batch_size=4, num_workers=2, persistent_workers=True)
first = next(iter(loader))
assert torch.equal(first[0], before) and not first[1].any(), first
assert torch.equal(model(torch.ones(4, 2)).detach()[0], before)
torch.save(model.state_dict(), file := io.BytesIO())
assert file.tell() < 4096 and model.weight.untyped_storage().nbytes() == 16
digest(model)
"""
)


def test_forks_of_the_script_have_parameters_of_their_own(tmp_path: Path) -> None:
    run(SHARING, tmp_path, 1, tmp_path)


EARLY = (
    START
    + """
torch.manual_seed(0)
model = unisono.parallel(nn.BatchNorm1d(3), microbatches=4, workers=workers)
if os.fork():
    os.wait()
    sys.exit()
model(torch.randn(16, 3))
digest(model)
"""
)


@pytest.mark.thorough
def test_a_fork_before_the_first_call_is_a_script_of_its_own(tmp_path: Path) -> None:
    alone, shared = (run(EARLY, tmp_path, workers, tmp_path).splitlines() for workers in (0, 2))
    assert alone[-1] == shared[-1]


STAYING = (
    START
    + """
import time
from torch.utils.data import DataLoader

model = unisono.parallel(nn.Linear(2, 2), microbatches=2, workers=2)
model(torch.ones(4, 2))
loader = iter(DataLoader(range(1000), num_workers=1, persistent_workers=True))
next(loader)
print("ready", flush=True)
signal.pause()
"""
)


def test_a_killed_script_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(STAYING)
    script = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), "2", str(tmp_path)], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    assert script.stdout is not None
    assert script.stdout.readline() == "ready\n"
    ours = [
        child for child in psutil.Process(script.pid).children(recursive=True)
        if any("unisono.scripts" in part for part in child.cmdline())
    ]  # fmt: skip
    assert len(ours) == 3, "the process that forks and two workers"
    (loader,) = [
        child for child in psutil.Process(script.pid).children() if str(tmp_path / "script.py") in child.cmdline()
    ]
    held = [str(file.readlink()) for file in Path(f"/proc/{loader.pid}/fd").iterdir()]
    held += Path(f"/proc/{loader.pid}/maps").read_text().splitlines()
    script.send_signal(signal.SIGKILL)
    script.wait(limit())
    assert not [each for each in held if "memfd:unisono" in each], "memory that would stay with the loader's process"
    until(lambda: not [child for child in ours if child.is_running() and child.status() != "zombie"], "all are gone")
    script.stdout.close()


EMPTY = (
    START
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.empty = nn.Parameter(torch.empty(0))

    def forward(self, x):
        return x * 2 + self.empty.sum()

first = unisono.parallel(nn.Linear(2, 2), microbatches=2, workers=workers)
first(torch.ones(16, 2))
net = unisono.parallel(Net(), microbatches=2, workers=workers)
net(torch.ones(16, 2))
del first  # whose parameters lie where the next one's, without elements, do
other = unisono.parallel(nn.Linear(2, 2), microbatches=2, workers=workers)
other(torch.ones(16, 2))
net.resize(workers + 1)
print(net(torch.ones(16, 2)).sum().item())
"""
)


def test_workers_come_to_a_model_without_elements_when_the_others_are_gone(tmp_path: Path) -> None:
    assert run(EMPTY, tmp_path, 1, tmp_path).splitlines()[-1] == "64.0"
