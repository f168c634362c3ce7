"""Messages and open files between two processes."""

from __future__ import annotations

import subprocess
import sys

CLOSED_OUTPUT = """
import os, socket, sys
from unisono.runtime.processes.channel import Channel
here, there = map(Channel, socket.socketpair())
file = os.open(os.devnull, os.O_RDONLY)
os.closerange(1, 3)
here.send("two", [file, file])
sys.exit(sum(number < 3 for number in there.receive()[1]))
"""


def test_files_do_not_get_the_numbers_of_an_output_that_the_jobs_code_has_closed() -> None:
    assert subprocess.run([sys.executable, "-c", CLOSED_OUTPUT], check=False).returncode == 0
