"""Fixtures of the tests with many hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.namespaces import Network, Unavailable


@pytest.fixture
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A network of 2 hosts, or as many as an indirect parameter says."""
    try:
        made = Network(getattr(request, "param", 2))
    except Unavailable as reason:
        pytest.skip(str(reason))
    with made:
        yield made
