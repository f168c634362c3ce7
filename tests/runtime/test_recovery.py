"""The recovery policy under any sequence of deaths, hangs, joins and resizes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from unisono.runtime.protocol import owner
from unisono.runtime.recovery import STRIKES, Crew, Decision, Fork, GiveUp, Inherit, Retire, Seat, Work

Event = tuple[str, int]
events = st.lists(st.tuples(st.sampled_from(["join", "death", "fault", "resize", "leave"]), st.integers(0, 99)))


class Stage:
    """Carries decisions out as the supervisor does."""

    def __init__(self, wanted: int) -> None:
        self.crew = Crew(wanted)
        self.alive: set[int] = set()
        self.heirs: dict[int, int] = {}
        self.seats: tuple[int, ...] = ()
        self.leaving: set[int] = set()
        self.given_up = False
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
            elif isinstance(decision, Retire):
                self.leaving.add(decision.member)
            elif isinstance(decision, GiveUp):
                self.given_up = True

    def owners(self) -> list[int]:
        return [owner(member, self.heirs.get) for member in self.seats]

    def die(self, member: int) -> None:
        self.alive.discard(member)
        self.leaving.discard(member)
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
            stage.do(stage.crew.blame(Work(round_, number)))
        elif what == "resize":
            stage.do(stage.crew.resize(number % 6 + 1))
        elif what == "leave" and stage.leaving - set(stage.owners()):
            stage.die(min(stage.leaving - set(stage.owners())))
        assert set(stage.owners()) <= stage.alive, "a seat without a living owner hangs the run"
        assert stage.seats
        assert not stage.given_up
    while stage.crew.coming:
        stage.do(stage.crew.joined(min(stage.crew.coming)))
    assert len(stage.seats) == len(set(stage.owners())) == stage.crew.wanted
    for member in sorted(stage.leaving):
        assert member not in stage.owners()
        stage.die(member)
    assert len(stage.alive) == stage.crew.wanted
    assert not stage.crew.coming


def test_three_faults_in_a_row_at_the_same_work_end_the_run() -> None:
    stage = Stage(2)
    for member in (0, 1):
        stage.do(stage.crew.joined(member))
    work = Work(7, 3)
    for count in range(STRIKES):
        assert not stage.given_up, count
        stage.die(max(stage.crew.present))
        stage.do(stage.crew.blame(work))
        while stage.crew.coming and not stage.given_up:
            stage.do(stage.crew.joined(min(stage.crew.coming)))
    assert stage.given_up


def test_deaths_before_anybody_can_work_end_the_run() -> None:
    stage = Stage(1)
    for _ in range(STRIKES):
        assert not stage.given_up
        stage.die(min(stage.crew.coming))
        stage.do(stage.crew.blame(None))
    assert stage.given_up


def test_only_deaths_at_the_same_work_or_at_none_are_counted_together() -> None:
    crew = Crew(2)
    assert crew.blame(Work(3, 1)) == []
    assert crew.blame(None) == [], "a newcomer that dies after a death at work is no third strike"
    assert crew.blame(Work(3, 1)) == []
    assert crew.strikes == {Work(3, 1): 2, None: 1}
    crew.blame(Work(9, 0))
    assert crew.strikes == {Work(9, 0): 1, None: 1}, "round 3 is over: what was at it is no suspect any more"
