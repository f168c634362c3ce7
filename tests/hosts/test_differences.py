"""Hosts that differ are told the one thing in which they do."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest

from unisono.hosts.differences import ACCOUNT, account_digest, difference
from unisono.values.untrusted import check

ACCOUNTED: dict[str, Any] = {
    "code": {"job.py": ["/a/job.py", "1f3c"], "pkg/layers.py": ["/a/pkg/layers.py", "0000"]},
    "job": {"seed": 0, "parameters": {"w": "float32[3]"}, "hyperparameters": [[{"lr": 0.1}]]},
    "numerics": {"framework": "torch 2.13", "threads": "1"},
    "data host": None,
    "data": {
        "the training data": {"length": 5, "samples": {"0": "a", "2": "b", "10": "c"}},
        "the evaluation data 'evaluation'": {"length": 3, "samples": {"0": "a"}},
    },
    "probe": {"the first value of 'w'": "1", "the loss": "2", "the gradient of 'w'": "3"},
    "arguments": {"lr": 0.1},
    "machine": {"CPU": "A", "CPU flags": "avx avx2"},
}


def changed(**places: Any) -> dict[str, Any]:
    """The account with other values, each placed by the names on the way there, with > between them."""
    account = deepcopy(ACCOUNTED)
    for place, value in places.items():
        *way, last = place.split(">")
        at = account
        for name in way:
            at = at[name]
        at[last] = value
    return account


@pytest.mark.parametrize(("change", "told"), [
    ({"code>job.py": ["/b/job.py", "77ab"]},
     r"the same code; job\.py differs: host 'b' has 77ab \(/b/job\.py\), host 'a' has 1f3c \(/a/job\.py\)"),
    ({"code>pkg/layers.py": ["/b", "77ab"]}, r"pkg/layers\.py differs"),
    ({"job>hyperparameters": [[{"lr": 0.2}]]},
     r"the same job; hyperparameters 0 0 lr: host 'b' has 0\.2, host 'a' has 0\.1\.$"),
    ({"job>parameters>w": "float32[4]"}, r"the same job; parameters w: host 'b' has float32\[4\], host 'a'"),
    ({"data host": 1}, "the data from the same host; --data-host: host 'b' has 1, host 'a' has None"),
    ({"numerics>framework": "torch 2.8"}, r"the same numerics; framework: host 'b' has torch 2\.8, host"),
    ({"data>the training data>length": 6},
     "the same data; the training data differ: host 'b' has 6 samples, host 'a' has 5 samples"),
    ({"data>the training data>samples": {"0": "a", "2": "x", "10": "x"}},
     "the training data of host 'b' and of host 'a' differ: sample 2 is the first that does, of 3 that were looked at"),
    ({"data>the evaluation data 'evaluation'>samples>0": "x"},
     "the evaluation data 'evaluation' of host 'b' and of host 'a' differ: sample 0 is the first"),
    ({"data": {"the training data": ACCOUNTED["data"]["the training data"]}},
     "host 'a' has the evaluation data 'evaluation', host 'b' has none"),
    ({"probe>the first value of 'w'": "x", "probe>the loss": "x"},
     "the first value of 'w' in one microbatch differs between host 'b' and host 'a', though all files and data that"),
    ({"probe>the gradient of 'w'": "x", "machine>ONEDNN_MAX_CPU_ISA": "SSE41", "machine>CPU flags": "avx"},
     r"the gradient of 'w' in .*agree: other kernels \(CPU flags: host 'b' has fewer, host 'a' has avx2\), other "
     r"kernels \(ONEDNN_MAX_CPU_ISA: host 'b' has SSE41, host 'a' has none\)\. These two hosts cannot give one result"),
    ({"probe>the loss": "x", "arguments>lr": 0.2},
     r"the loss .*: other arguments \(lr: host 'b' has 0\.2, host 'a' has 0\.1\)"),
    ({"probe>the loss": "x", "code": {"old.py": ["/b/old.py", "1"]}},
     r"files that only host 'a' has \(job\.py, pkg/layers\.py\), files that only host 'b' has \(old\.py\)"),
    ({"probe>the loss": "x"}, "the code reads something else that differs, or libraries do"),
    ({"code>job.py": ["/b/job.py", "\x1b[2J"]}, r"has \\x1b\[2J"),
])  # fmt: skip
def test_the_first_difference_is_named(change: dict[str, Any], told: str) -> None:
    other = changed(**change)
    found = difference(check(ACCOUNTED, ACCOUNT), check(other, ACCOUNT), ("a", "b"))
    assert found
    assert re.search(told, found), found
    assert len(found) < 600, "one thing, not all that there is"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"code>job.py": ["/b/job.py", "1f3c"]},
        {"code": {"job.py": ["/b/job.py", "1f3c"], "only_here.py": ["/b", "1"]}},
        {"data>the training data>samples": {"0": "a"}},
        {"data>the training data>samples": {}},
        {"probe": {}},
        {"machine": {"CPU": "B", "CPU flags": "sve", "XLA_FLAGS": "--x"}},
        {"arguments": {"lr": 0.1, "root": "/b"}},
    ],
    ids=str,
)
def test_what_cannot_be_compared_and_what_only_explains_are_no_difference(change: dict[str, Any]) -> None:
    assert difference(ACCOUNTED, changed(**change), ("a", "b")) is None
    assert (account_digest(ACCOUNTED) == account_digest(changed(**change))) == (not change)
