"""Variables that act on a run, or seem to."""

from __future__ import annotations

import pytest

from unisono.machine.environment import check_environment


@pytest.mark.parametrize(("environment", "name", "state", "text"), [
    ({}, "threads", "ok", "nothing set"),
    ({"OMP_NUM_THREADS": "4"}, "threads", "ok", "OMP_NUM_THREADS=4 without effect"),
    ({"OMP_PROC_BIND": "true"}, "binding", "warning", "OMP_PROC_BIND=true"),
    ({"XLA_FLAGS": "--xla_cpu_enable_fast_math"}, "arithmetic", "warning", "XLA_FLAGS=--xla_cpu_enable_fast_math"),
    ({"LD_PRELOAD": "/lib/libjemalloc.so"}, "allocation", "warning", "LD_PRELOAD=/lib/libjemalloc.so"),
])  # fmt: skip
def test_what_is_set_is_told(environment: dict[str, str], name: str, state: str, text: str) -> None:
    found = {each.name: each for each in check_environment(environment, ["OMP_NUM_THREADS"])}
    assert (found[name].state, text in found[name].found) == (state, True)
    assert {each.state for each in found.values() if each.name != name} == {"ok"}
