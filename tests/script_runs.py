"""Scripts of one test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from paths import PYTHONPATH
from waiting import limit


def run(script: str, tmp_path: Path, *arguments: Any, status: int = 0, **environment: str) -> str:
    """What a script prints."""
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), *map(str, arguments)], capture_output=True, text=True,
        timeout=limit(), env={**os.environ, "PYTHONPATH": PYTHONPATH, **environment},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr
