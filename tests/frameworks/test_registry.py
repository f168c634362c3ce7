"""A framework that is not installed is asked for by the name of its extra."""

from __future__ import annotations

import re
import sys

import pytest

from unisono.errors import UsageError
from unisono.frameworks.registry import FAMILIES, Family, framework


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.package)
def test_a_missing_framework_names_its_extra(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in family.roots:
        monkeypatch.setitem(sys.modules, root, None)
    for name in [name for name in sys.modules if name.startswith(f"unisono.frameworks.{family.package}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UsageError, match=re.escape(f"pip install 'unisono[{family.extra}]'")):
        framework(family.package)
