"""A folder that processes share goes with the last of them, though all are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from waiting import until

FAMILY = """
import os, threading
from unisono.runtime.leftovers import shared_folder
folder = shared_folder("unisono-shared-")
child = os.fork()
if child:
    print(folder, child, flush=True)
else:
    open(folder + "/what was compiled", "w").close()
threading.Event().wait()
"""


def test_a_shared_folder_goes_with_the_last_of_its_processes(tmp_path: Path) -> None:
    command, environment = [sys.executable, "-c", FAMILY], {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout is not None
        name, child = first.stdout.readline().split()
        folder = Path(name)
        assert folder.parent == tmp_path
        until(lambda: list(folder.iterdir()), "the child has written")
        first.kill()
    assert list(folder.iterdir()), "the child lives"
    os.kill(int(child), signal.SIGKILL)
    until(lambda: not folder.exists(), "the folder has gone")
