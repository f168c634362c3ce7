"""What a person must read is the last on the screen: `python -m unisono.lastword FILE TEXT`, with a file of a process.

torchrun writes a hundred lines after the process that it has started has said why it ends: they bury that.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys

MOST_SECONDS = 60.0
"""Until then it has ended, or goes on: it may have started the process again."""


def repeated(text: str) -> None:
    """Where torchrun has started this process: have a text said again once torchrun has ended too."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    try:
        agent = os.pidfd_open(os.getppid())
    except OSError:  # it has ended already
        return
    command = [sys.executable, "-m", "unisono.lastword", str(agent), text]
    subprocess.Popen(command, pass_fds=[agent], stdin=subprocess.DEVNULL, start_new_session=True)


def main(agent: int, text: str) -> None:
    """Wait for the process, and say it."""
    watched = select.poll()
    watched.register(agent, select.POLLIN)
    if watched.poll(MOST_SECONDS * 1000):
        sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
