"""The recovery policy under any sequence of deaths, hangs, joins and resizes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.runtime.rules.crew import STRIKES, Crew, Decision, Fork, Inherit, Seat, Work
from unisono.runtime.rules.plan import owner

Event = tuple[str, int]
events = st.lists(st.tuples(st.sampled_from(["join", "death", "fault", "resize", "leave"]), st.integers(0, 99)))


class Stage:
    """Carries decisions out as the supervisor does."""

    def __init__(self, wanted: int) -> None:
        self.crew = Crew(wanted)
        self.alive: set[int] = set()
        self.heirs: dict[int, int] = {}
        self.seats: tuple[int, ...] = ()
        self.do(self.crew.begin())

    def do(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Fork):
                assert decision.member not in self.alive
                self.alive.add(decision.member)
            elif isinstance(decision, Inherit):
                assert decision.dead not in self.alive
                assert decision.heir in self.alive
                self.heirs[decision.dead] = decision.heir
            elif isinstance(decision, Seat):
                self.seats = decision.members

    def owners(self) -> list[int]:
        return [owner(member, self.heirs.get) for member in self.seats]

    def die(self, member: int) -> None:
        self.alive.discard(member)
        self.do(self.crew.died(member))


@settings(max_examples=300)
@given(st.integers(1, 6), events)
def test_every_seat_has_a_living_owner_and_calm_restores_the_world(wanted: int, happenings: list[Event]) -> None:
    stage = Stage(wanted)
    for round_, (what, number) in enumerate(happenings):
        living = sorted(stage.alive)
        chosen = living[number % len(living)]
        if what == "join" and stage.crew.coming:
            stage.do(stage.crew.joined(sorted(stage.crew.coming)[number % len(stage.crew.coming)]))
        elif what == "death" and chosen in stage.crew.present:
            stage.die(chosen)
        elif what == "fault" and chosen in stage.crew.present:
            stage.die(chosen)
            assert not stage.crew.blame(Work(round_, number))
        elif what == "resize":
            stage.do(stage.crew.resize(number % 6 + 1))
        elif what == "leave" and stage.crew.retiring - set(stage.owners()):
            stage.die(min(stage.crew.retiring - set(stage.owners())))
        assert set(stage.owners()) <= stage.alive, "a seat without a living owner hangs the run"
        assert stage.seats
    while stage.crew.coming:
        stage.do(stage.crew.joined(min(stage.crew.coming)))
    assert len(stage.seats) == len(set(stage.owners())) == stage.crew.wanted
    for member in sorted(stage.crew.retiring):
        assert member not in stage.owners()
        stage.die(member)
    assert len(stage.alive) == stage.crew.wanted
    assert not stage.crew.coming


def test_three_faults_in_a_row_at_the_same_work_end_the_run() -> None:
    stage = Stage(2)
    for member in (0, 1):
        stage.do(stage.crew.joined(member))
    work = Work(7, 3)
    assert STRIKES == 3, "as docs/reliability.md promises"
    for count in range(STRIKES):
        stage.die(max(stage.crew.present))
        assert stage.crew.blame(work) == (count == STRIKES - 1)
        while stage.crew.coming:
            stage.do(stage.crew.joined(min(stage.crew.coming)))


def test_deaths_before_anybody_can_work_end_the_run() -> None:
    stage = Stage(1)
    for count in range(STRIKES):
        stage.die(min(stage.crew.coming))
        assert stage.crew.blame(None) == (count == STRIKES - 1)


def test_only_deaths_at_the_same_work_or_at_none_are_counted_together() -> None:
    crew = Crew(2)
    assert not crew.blame(Work(3, 1))
    assert not crew.blame(None), "a newcomer that dies after a death at work is no third strike"
    assert not crew.blame(Work(3, 1))
    assert crew.strikes == {Work(3, 1): 2, None: 1}
    crew.blame(Work(9, 0))
    assert crew.strikes == {Work(9, 0): 1, None: 1}, "round 3 is over: what was at it is no suspect any more"


def at_work(count: int) -> Stage:
    """So many members, all of them present: 0, 1, …"""
    stage = Stage(count)
    for member in range(count):
        stage.do(stage.crew.joined(member))
    return stage


def test_the_least_busy_inherits_and_of_equal_ones_the_eldest() -> None:
    stage = at_work(4)
    stage.die(2)
    assert stage.heirs == {2: 0}
    stage.die(3)
    assert stage.heirs[3] == 1, "member 0 has two seats"
    assert stage.owners() == [0, 1, 0, 1]
    stage.die(0)
    assert stage.heirs[0] == 1, "who is coming cannot work yet"


def test_who_retires_inherits_only_where_nobody_else_is() -> None:
    stage = at_work(3)
    stage.do(stage.crew.resize(2))
    assert stage.crew.retiring == {2}
    assert stage.owners() == [0, 1]
    stage.die(0)
    assert stage.heirs == {0: 1}
    stage.die(1)
    assert stage.heirs[1] == 2, "alive it is still"


def test_newcomers_sit_down_where_one_has_two_seats() -> None:
    stage = at_work(2)
    stage.do(stage.crew.resize(4))
    assert stage.alive == {0, 1, 2, 3}
    assert stage.seats == (0, 1), "nobody sits twice before the newcomers are there"
    stage.do(stage.crew.joined(3))
    assert stage.seats == (0, 1, 3)
    assert stage.crew.joined(3) == [], "once"
    stage.do(stage.crew.joined(2))
    assert stage.seats == (0, 1, 3, 2)
    stage.do(stage.crew.resize(4))
    assert stage.alive == {0, 1, 2, 3}, "enough are there"


def test_a_smaller_world_ends_those_who_come_too_late_first() -> None:
    stage = at_work(2)
    stage.do(stage.crew.resize(4))
    stage.do(stage.crew.resize(3))
    assert stage.crew.retiring == {3}
    stage.do(stage.crew.joined(3))
    assert stage.seats == (0, 1), "it has no seat"
    stage.do(stage.crew.resize(1))
    assert stage.crew.retiring == {1, 2, 3}
    assert stage.owners() == [0]


def test_one_that_ended_with_the_run_is_not_there_any_more() -> None:
    crew = at_work(2).crew
    crew.resize(1)
    for member in (0, 1):
        crew.left(member)
    assert not crew.present | crew.coming | crew.retiring


def test_members_have_numbers_of_their_own_for_ever() -> None:
    stage = at_work(2)
    assert stage.crew.newcomer() == 2
    assert stage.crew.newcomer() == 3


def test_old_faults_and_those_before_work_are_forgotten_once_there_is_progress() -> None:
    stage = at_work(1)
    for work in (Work(3, 0), Work(3, 0), Work(4, 0), Work(3, 0)):
        assert not stage.crew.blame(work)  # each step that is done begins the count anew
    stage = at_work(1)
    assert not any(stage.crew.blame(Work(3, microbatch)) for microbatch in (0, 1, 0))
    assert stage.crew.blame(Work(3, 0))
    for _ in range(2):
        stage.die(max(stage.alive))
        assert not stage.crew.blame(None)
    stage.do(stage.crew.joined(max(stage.crew.coming)))
    assert not stage.crew.blame(None)
