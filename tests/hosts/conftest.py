"""Fixtures of the tests with many hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hosts.host_processes import hash_of, job_file
from hosts.launched import WAITING
from hosts.namespaces import Network, Unavailable


@pytest.fixture
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A network of 2 hosts, or as many as an indirect parameter says."""
    try:
        made = Network(getattr(request, "param", 2))
    except Unavailable as reason:
        pytest.skip(str(reason))
    with made:
        yield made


@pytest.fixture
def expected(tmp_path: Path) -> str:
    """The hash of a job, put into the test's folder, that stops at step 150 until the file `held` is gone."""
    job_file(tmp_path, WAITING)
    (tmp_path / "held").write_text("150")
    return hash_of(WAITING)
