"""Acts of parallel calls in every order of answers, deaths and interrupts of a small crew."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

import pytest

from unisono.scripts.acts import Acts


@dataclass
class World:
    """A crew at its acts.

    Attributes:
        acts: what is tested.
        mailbox: member → the act and the work it has been sent and has not answered.
        taken: works of this act whose answers were taken.
        deaths, interrupts: that may still happen.
        newest: the youngest member's number.
    """

    acts: Acts
    owners: tuple[int, ...]
    failing: frozenset[int]
    mailbox: dict[int, tuple[int, int] | None]
    deaths: int
    interrupts: int
    taken: list[int] = field(default_factory=list)
    newest: int = 9

    def key(self) -> str:
        return repr((self.acts, self.mailbox, self.taken, self.deaths, self.interrupts))

    def send(self) -> None:
        for member, work in self.acts.due(sorted(self.mailbox)):
            assert self.mailbox[member] is None, "it is asked again before it has answered"
            self.mailbox[member] = self.acts.number, work

    def answer(self, member: int) -> None:
        asked = self.mailbox[member]
        assert asked is not None
        self.mailbox[member] = None
        act, work = asked
        is_of_this = act == self.acts.number
        done = self.acts.answered(member, act, work in self.failing)
        assert done == (work if is_of_this else None), "an answer counts as another work's"
        if done is not None:
            assert done not in self.taken, "it is taken twice"
            self.taken.append(done)

    def die(self, member: int) -> None:
        """One that works inherits, a newcomer where there is none."""
        at = self.mailbox.pop(member)
        told = self.acts.at(member)
        assert told == (at[1] if at is not None and at[0] == self.acts.number else None), "another work is blamed"
        self.newest += 1
        heir = min(self.mailbox, default=self.newest)
        self.mailbox[self.newest] = None
        self.acts.died(member, heir)
        self.deaths -= 1

    def interrupt(self) -> None:
        """The script's user stops the act, and asks for another."""
        self.acts.end()
        self.interrupts -= 1
        self.begin(min(self.mailbox))

    def begin(self, instead: int) -> None:
        self.taken = []
        self.acts.begin([owner if owner in self.mailbox else instead for owner in self.owners])

    def futures(self) -> list[World]:
        """All that can happen next."""
        found = []
        for member, asked in self.mailbox.items():
            if asked is not None:
                found.append(self._after("answer", member))
            if self.deaths:
                found.append(self._after("die", member))
        if self.interrupts:
            found.append(self._after("interrupt"))
        return found

    def _after(self, what: str, *arguments: int) -> World:
        world = deepcopy(self)
        getattr(world, what)(*arguments)
        if not world.acts.is_over:
            world.send()
        return world


@pytest.mark.parametrize("failing", [(), (0,), (2,), (1, 3), (0, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("owners", [(0, 1, 0, 1), (0, 1, 2, 2), (0, 0, 0, 0), (1, 0)], ids=str)
def test_every_act_ends_with_each_work_done_once_or_with_its_first_failure(
    owners: tuple[int, ...], failing: tuple[int, ...]
) -> None:
    crew: dict[int, tuple[int, int] | None] = dict.fromkeys(range(3))
    world = World(Acts(), owners, frozenset(failing), crew, deaths=3, interrupts=1)
    world.begin(0)
    world.send()
    seen, waiting, ends = {world.key()}, [world], 0
    while waiting:
        world = waiting.pop()
        if world.acts.is_over:
            ends += 1
            failed = [work for work in failing if work < len(owners)]
            assert world.acts.failed == (failed[0] if failed else None)
            assert set(world.taken) >= set(range(failed[0] + 1 if failed else len(owners)))
            assert not any(asked and asked[0] == world.acts.number for asked in world.mailbox.values())
            continue
        assert any(world.mailbox.values()), "all wait for all"
        for future in world.futures():
            if future.key() not in seen:
                seen.add(future.key())
                waiting.append(future)
    assert ends > 1
