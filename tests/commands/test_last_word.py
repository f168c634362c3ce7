"""What is said again once the process has ended that has started this one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from paths import PYTHONPATH
from waiting import limit

AGENT = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "from unisono.commands.last_word import repeated; repeated('what to do')"])
print("the agent ends", file=sys.stderr)
"""


def said_by(**variables: str) -> str:
    """What is on the screen after an agent that has ended."""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
    done = subprocess.run(
        [sys.executable, "-c", AGENT], env={**environment, "PYTHONPATH": PYTHONPATH, **variables},
        capture_output=True, text=True, timeout=limit(), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stderr


@pytest.mark.parametrize(
    ("variables", "text"), [({"TORCHELASTIC_RUN_ID": "none"}, "the agent ends\nwhat to do\n"), ({}, "the agent ends\n")]
)
def test_the_last_word(variables: dict[str, str], text: str) -> None:
    assert said_by(**variables) == text
