"""A process that is only to say where it is takes no harm from being asked, and is asked whatever it is in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paths import PYTHONPATH
from unisono.runtime.processes.stacks import Asked
from waiting import until

BEGIN = """
import os, signal, sys
from unisono.errors.failure import STACK_SIGNAL
from unisono.runtime.processes.stacks import answers_in

def works():
    signal.signal(STACK_SIGNAL, signal.SIG_DFL)  # it would die of that
    print("begun", flush=True)
    while True:
        pass

def sleeps():
    print("begun", flush=True)
    os.read(0, 1)

answers_in(int(sys.argv[1]))
globals()[sys.argv[2]]()
"""


@pytest.mark.parametrize("what", ["works", "sleeps"])
def test_who_is_to_go_on_says_where_it_is(what: str) -> None:
    file = os.memfd_create("stacks")
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN, str(file), what], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        pass_fds=[file], env={**os.environ, "PYTHONPATH": PYTHONPATH},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            asked = Asked(process.pid, file, goes_on=True)
            until(lambda: asked.stack.endswith(" in <module>\n") or asked.insists() is None, "it answers")
            assert f"in {what}" in asked.stack
            assert process.poll() is None
        finally:
            process.kill()
    os.close(file)
