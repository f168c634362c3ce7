"""The campaign: trials of every kind, drawn by a seed; counted, and named with what draws the same one again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from reliability.code import code
from reliability.damage import damage, hostile
from reliability.disks import disks, machines
from reliability.kills import kills, supervisors
from reliability.messages import between_hosts, messages
from reliability.place import Grounds, Impossible, Place
from reliability.signals import signals
from reliability.streams import streams

Trial = Callable[[Random, Place], None]

KINDS: Mapping[str, Trial] = {
    "damage": damage, "hostile": hostile, "between_hosts": between_hosts, "signals": signals, "streams": streams,
    "code": code, "kills": kills, "supervisors": supervisors, "disks": disks, "machines": machines,
    "messages": messages,
}  # fmt: skip
"""The kinds of trials."""

SHARES = {
    "damage": 20, "hostile": 20, "between_hosts": 10, "signals": 12, "streams": 8, "code": 8, "kills": 6,
    "supervisors": 2, "disks": 6, "machines": 4, "messages": 4,
}  # fmt: skip
"""Kind → how many of a hundred trials are its."""


def count_of(kind: str, trials: int) -> int:
    """How many of so many trials are a kind's; at least one."""
    return -(-SHARES[kind] * trials // sum(SHARES.values()))


@dataclass
class Score:
    """What a campaign has found.

    Attributes:
        tried, right: how many trials.
        wrong: each that went wrong: how to repeat it, what it tried, what was wrong.
        impossible: why others could not be tried here.
    """

    tried: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    impossible: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.right} of {self.tried} right"
        return f"{text}, {len(self.impossible)} impossible here" if self.impossible else text


def names(kind: str, seed: int, count: int) -> Iterator[str]:
    """The trials of a kind that a seed draws: "damage/7/0", which draws one again."""
    return (f"{kind}/{seed}/{number}" for number in range(count))


def tried(name: str, grounds: Grounds, score: Score) -> str:
    """Try one, and count it.

    Args:
        name: of the trial.
        grounds: what all share.
        score: where it is counted.

    Returns:
        A line for people.
    """
    place = Place(grounds.folder / name.replace("/", "-"), grounds)
    try:
        KINDS[name.partition("/")[0]](Random(name), place)
    except Impossible as reason:
        score.impossible.append(f"{name}: {reason}")
        return f"{name}: impossible here: {reason}"
    finally:
        shutil.rmtree(place.folder, ignore_errors=True)
    score.tried += 1
    if not place.wrong:
        score.right += 1
        return f"{name}: {place.tried}: right"
    score.wrong.append(f"{name}: {place.tried}: WRONG: {'; '.join(place.wrong)}")
    return score.wrong[-1]


def campaign(kind: str, seed: int, count: int, folder: Path) -> Score:
    """So many trials of a kind.

    Args:
        kind: the kind.
        seed: what draws them.
        count: how many.
        folder: an empty one.
    """
    score, grounds = Score(), Grounds(folder)
    try:
        for name in names(kind, seed, count):
            tried(name, grounds, score)
    finally:
        grounds.close()
    return score
