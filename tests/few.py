"""Of many cases of one promise `make test` runs a few, `make test-all` all of them.

    @pytest.mark.few("wild", "muon")
    @pytest.mark.parametrize("kind", KINDS)
    def test_one_hash(kind): ...

The other cases are `thorough`.
"""

from __future__ import annotations

from collections import defaultdict

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is not among the few."""
    cases: dict[str, set[str]] = defaultdict(set)
    few: dict[str, tuple[str, ...]] = {}
    for item in items:
        mark, case = item.get_closest_marker("few"), getattr(item, "callspec", None)
        if mark is None or case is None:
            continue
        name = item.nodeid.removesuffix(f"[{case.id}]")
        cases[name].add(case.id)
        few[name] = mark.args
        if case.id not in mark.args:
            item.add_marker("thorough")
    if any("::" in argument for argument in config.args):
        return  # single cases were asked for
    for name, chosen in few.items():
        if lost := set(chosen) - cases[name]:
            raise pytest.UsageError(f"few names cases that {name} has: {sorted(cases[name])}; received {sorted(lost)}.")
