"""Hosts share the microbatches and the summing between them: nothing twice, nothing left out."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from unisono.gradients.hosts import LEAST_ELEMENTS, MOST_ELEMENTS, host_shares, spans


@given(st.integers(1, 64), st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_shares_follow_the_workers(microbatches: int, workers: list[int]) -> None:
    shares = host_shares(microbatches, workers)
    assert (shares[0], shares[-1], len(shares)) == (0, microbatches, len(workers) + 1)
    for (start, stop), count in zip(pairwise(shares), workers, strict=True):
        assert abs(stop - start - microbatches * count / sum(workers)) <= 1


@given(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=4), st.integers(1, 7))
def test_spans_cover_every_element_once_and_hosts_alike(lengths: list[int], hosts: int) -> None:
    found = spans(lengths, hosts)
    for region, length in enumerate(lengths):
        own = sorted((span for span in found if span.region == region), key=lambda span: span.start)
        assert [span.start for span in own] == [0, *(span.stop for span in own)][: len(own)]
        assert sum(span.stop - span.start for span in own) == length
    elements = [sum(span.stop - span.start for span in found if span.host == host) for host in range(hosts)]
    assert max(elements) - min(elements) <= len(found)
    assert all(0 < span.stop - span.start <= MOST_ELEMENTS for span in found)
    assert all(span.stop - span.start <= LEAST_ELEMENTS for span in found if span.start == 0)
