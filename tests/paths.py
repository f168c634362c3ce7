"""Where a process that a test starts finds modules: the tests' own, and the Unisono that is tested, whatever is
installed."""

from __future__ import annotations

import os
from pathlib import Path

import unisono

TESTS = Path(__file__).parent
SOURCES = Path(unisono.__file__).parent.parent
PYTHONPATH = os.pathsep.join(filter(None, [str(TESTS), str(SOURCES), os.environ.get("PYTHONPATH")]))
