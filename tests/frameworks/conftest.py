"""The frameworks' kits, for the suites that run over all of them."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

KITS = sorted(path.stem for path in (Path(__file__).parent / "kits").glob("*.py") if path.stem != "samples")


@pytest.fixture(params=KITS)
def kit(request: pytest.FixtureRequest) -> Any:
    """Each framework's kit that is installed here."""
    if importlib.util.find_spec({"pytorch": "torch"}.get(request.param, request.param)) is None:
        pytest.skip(f"{request.param} is not installed in this environment")
    return importlib.import_module(f"frameworks.kits.{request.param}")
