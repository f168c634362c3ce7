"""Other systems get a way out."""

from __future__ import annotations

import pytest

from unisono.errors import UsageError
from unisono.machine.platform_check import require_linux


@pytest.mark.parametrize(
    ("system", "release", "text"),
    [("Darwin", "23.0", "Docker"), ("Windows", "10", "WSL2"), ("Linux", "4.18.0", "5.3")],
)
def test_what_cannot_run_is_refused(system: str, release: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        require_linux(system, release)
