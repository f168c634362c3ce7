"""What `make demo` shows is so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from command_line import ROOT
from waiting import limit


@pytest.mark.thorough
def test_the_demo_ends_with_one_hash(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "was ended by SIGKILL; its work goes on elsewhere" in done.stdout
    assert "Same bits in every situation" in done.stdout
    assert done.stdout.endswith("They are those of the run that lost a worker.\n")
