"""What a person must read is the last on the screen: `python -m unisono.commands.last_word AGENT TEXT`.

torchrun writes a hundred lines after the process that it has started has said why it ends: they bury that.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

LOOK_SECONDS = 0.2


def repeated(text: str) -> None:
    """Where torchrun has started this process: have a text said again once torchrun has ended too."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        command = [sys.executable, "-m", "unisono.commands.last_word", str(os.getppid()), text]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def main(agent: psutil.Process, text: str) -> None:
    """Wait for the agent's end, and say it; where it starts another process instead there is nothing to say."""
    before, watched = set(agent.children()), select.poll()
    watched.register(os.pidfd_open(agent.pid), select.POLLIN)  # ready too where nobody has asked how it ended
    while not watched.poll(1000 * LOOK_SECONDS):
        if set(agent.children()) - before:
            return
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    import psutil

    try:
        main(psutil.Process(int(sys.argv[1])), sys.argv[2])
    except (psutil.NoSuchProcess, ProcessLookupError):  # it has ended before it was looked at
        sys.stderr.write(f"{sys.argv[2]}\n")
