"""Processes that outlive who has forked them, and not who has adopted them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from paths import PYTHONPATH
from unisono.runtime.processes.lifeline import reap, status_of
from waiting import limit, until

ADOPTER = """
import ctypes, os, signal, sys, threading
from unisono.runtime.processes.lifeline import Adoption, fork_for, status_of

def adopts():
    found = ctypes.c_int()
    ctypes.CDLL(None).prctl(37, ctypes.byref(found))
    return found.value

def live():
    open("lives", "w").write(str(os.getpid()))
    signal.pause()

def forked(adoption):
    told, telling = os.pipe()
    own = os.getpid()
    if not os.fork():
        os.close(adoption._tell)  # as who has become another program has
        os.write(telling, str(fork_for(own, adoption.start, live)).encode())
        os._exit(0)
    os.wait()  # who has forked it is gone
    return int(os.read(told, 20))

before = int(sys.argv[2])
ctypes.CDLL(None).prctl(36, before)
adoption = Adoption()
assert adopts() == 1
child = forked(adoption)
if sys.argv[1] == "unwanted":
    adoption.fails()
    assert os.waitpid(child, 0)[1] == 256
else:
    begun = []
    thread = threading.Thread(target=lambda: begun.append(adoption.begins(child)))
    thread.start()
    thread.join()
assert adopts() == before
print(child, flush=True)
if sys.argv[1] == "waits":
    print(status_of(begun[0]), flush=True)
elif sys.argv[1] == "lives":
    signal.pause()
"""


def adopter(folder: Path, mode: str, before: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ADOPTER, mode, str(before)], cwd=folder, env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def child_of(process: subprocess.Popen[str], folder: Path) -> psutil.Process:
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    until((folder / "lives").exists, "it lives")
    assert child.ppid() == process.pid
    return child


@pytest.mark.parametrize("before", [0, 1])
def test_it_outlives_who_has_forked_it_and_its_end_is_known(tmp_path: Path, before: int) -> None:
    process = adopter(tmp_path, "waits", before)
    child_of(process, tmp_path).send_signal(signal.SIGSEGV)
    assert process.communicate(timeout=limit())[0] == f"{-signal.SIGSEGV}\n"
    assert process.returncode == 0


def test_it_ends_with_who_has_adopted_it_and_not_with_one_of_its_threads(tmp_path: Path) -> None:
    process = adopter(tmp_path, "lives")
    child = child_of(process, tmp_path)
    process.kill()
    process.communicate(timeout=limit())
    _, alive = psutil.wait_procs([child], timeout=limit())
    assert not alive


def test_one_that_is_not_told_to_begin_ends(tmp_path: Path) -> None:
    process = adopter(tmp_path, "unwanted")
    process.communicate(timeout=limit())
    assert process.returncode == 0
    assert not (tmp_path / "lives").exists()


def test_a_status_that_somebody_else_has_taken_is_that_of_a_kill_from_outside() -> None:
    process = subprocess.Popen(["false"])
    pidfd = os.pidfd_open(process.pid)
    process.wait()
    assert status_of(pidfd) == -signal.SIGKILL
    os.close(pidfd)


def test_the_dead_of_a_group_are_forgotten_and_the_living_stay() -> None:
    one = subprocess.Popen(["true"], process_group=0)
    with subprocess.Popen(["cat"], process_group=one.pid, stdin=subprocess.PIPE) as other:
        until(lambda: psutil.Process(one.pid).status() == psutil.STATUS_ZOMBIE)
        reap(one.pid)
        assert not psutil.pid_exists(one.pid)
        assert other.poll() is None
        reap(os.getpid() + 1_000_000)  # there is none
    assert one.wait() == 0  # Python's way to say that somebody else has
