"""Unisono disturbed in every way that this folder knows: a few trials always, more of them by a seed that is drawn."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reliability import damage, disks
from reliability.campaign import KINDS, Score, campaign, count_of, names, tried
from reliability.place import Grounds
from reliability.told import PROPERTY

TRIALS = 250
"""Of all kinds, in `make test-all`."""

FEW = ("damage/1/10", "hostile/1/1", "between_hosts/1/5", "signals/1/3")
"""Trials that are always made, and what they are about: see what `make campaign` prints of them."""


@pytest.fixture(scope="module")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    shared = Grounds(tmp_path_factory.mktemp("campaign") / "grounds")
    yield shared
    shared.close()


@pytest.mark.parametrize("name", FEW)
def test_a_few(name: str, grounds: Grounds) -> None:
    score = Score()
    told = tried(name, grounds, score)
    assert score.tried == score.right, told


def test_a_name_draws_the_same_trial(grounds: Grounds) -> None:
    score = Score()
    assert [tried(name, grounds, score) for name in names("between_hosts", 3, 2)] == [
        tried(name, grounds, score) for name in names("between_hosts", 3, 2)
    ]


def test_trials_are_spread_over_all_kinds() -> None:
    assert sum(count_of(kind, 300) for kind in KINDS) == 300
    assert all(count_of(kind, 1) == 1 for kind in KINDS)


def test_another_answer_is_counted_as_wrong(grounds: Grounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "FILES", {"metrics.jsonl": (("status",),)})
    monkeypatch.setitem(grounds.answers, ("status",), "failed\n")
    score = Score()
    assert "another answer in silence: 'completed" in tried("damage/1/0", grounds, score)
    assert (score.tried, score.right, len(score.wrong)) == (1, 0, 1)
    assert str(score) == "0 of 1 right"


def test_what_cannot_be_tried_here_is_told(grounds: Grounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "LACKS", {"nothing": "false"})
    score = Score()
    assert "impossible here" in tried("machines/1/0", grounds, score)
    assert str(score) == "0 of 0 right, 1 impossible here"


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_a_campaign(kind: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    seed = secrets.randbelow(10**6)
    score = campaign(kind, seed, count_of(kind, TRIALS), tmp_path / "grounds")
    record_property(PROPERTY, f"{kind}, seed {seed}: {score}")
    assert not score.wrong, "\n".join([*score.wrong, "make campaign TRIAL=… makes one again."])
