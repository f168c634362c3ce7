"""Patience: adapted to the usual, never less than the floor, and blind to time in which nobody could go on."""

from __future__ import annotations

import pytest

from unisono.runtime.rules.stalls import (
    BEGINNING,
    FLOOR_SECONDS,
    LEAVING,
    MULTIPLE,
    STOPPED,
    UNKNOWN_SECONDS,
    Stalls,
)


def still(
    stalls: Stalls, kind: str, seconds: float, mark: object = 0, who: str = "w", slots: tuple[int, ...] = (0,),
    held_up: float = 0.0,
) -> bool:  # fmt: skip
    """Look every half second at one whose words stand still for so long, and who is held up for so much of each."""
    looks = range(round(2 * seconds) + 1)
    return any(stalls.look(who, kind, slots, mark, 0.5, lambda: held_up) for _ in looks)


def test_patience_is_as_promised() -> None:
    assert (MULTIPLE, FLOOR_SECONDS, UNKNOWN_SECONDS) == (20.0, 10.0, 300.0)  # docs/reliability.md


def test_unknown_work_is_given_time() -> None:
    stalls = Stalls()
    assert not still(stalls, "compute", UNKNOWN_SECONDS - 1)
    assert still(stalls, "compute", 4)


def test_how_long_one_was_about_to_begin_tells_nothing() -> None:
    stalls = Stalls()
    assert not still(stalls, "compute", 0.0, mark="about to begin")
    assert not still(stalls, "compute", UNKNOWN_SECONDS - 1, mark="the first of all")


def test_patience_follows_the_longest_of_its_kind() -> None:
    stalls = Stalls()
    assert not still(stalls, "compute", 0.0)
    assert not still(stalls, "compute", 2.0, mark=1)
    assert not still(stalls, "compute", MULTIPLE * 2.0 - 1, mark=2)
    assert still(stalls, "compute", 4, mark=2)
    assert not still(stalls, "evaluation compute", UNKNOWN_SECONDS - 1, mark=3)


def test_short_work_has_the_floor() -> None:
    stalls = Stalls()
    assert not still(stalls, "update", 0.0)
    assert not still(stalls, "update", 0.5, mark=1)
    assert not still(stalls, "update", FLOOR_SECONDS - 1, mark=2)
    assert still(stalls, "update", 4, mark=2)


def test_a_suspended_machine_is_not_a_hung_worker() -> None:
    stalls = Stalls(5.0)
    stalls.look("w", "compute", (0,), 0, 0.1)
    assert not stalls.look("w", "compute", (0,), 0, 3600.0)


def test_who_waits_or_is_dead_is_forgotten() -> None:
    stalls = Stalls(1.0)
    assert not still(stalls, "compute", 0.5)
    stalls.forget("w")
    assert not still(stalls, "compute", 0.5)


def test_patience_is_exhausted_when_it_is_exceeded() -> None:
    stalls = Stalls(1.0)
    assert [stalls.look("w", "compute", (0,), 0, 0.5) for _ in range(4)] == [False, False, False, True]


def test_the_longest_of_its_kind_counts_and_not_the_last() -> None:
    stalls = Stalls()
    assert not still(stalls, "compute", 0.0)
    assert not still(stalls, "compute", 4.0, mark=1)
    assert not still(stalls, "compute", 1.0, mark=2)
    assert not still(stalls, "compute", MULTIPLE * 4.0 - 1, mark=3)
    assert still(stalls, "compute", 4, mark=3)


def test_others_do_not_count() -> None:
    """Each member has a beginning of its own, and each is watched by itself."""
    stalls = Stalls(1.0)
    assert not still(stalls, "compute", 1.0, who="one")
    assert not still(stalls, "compute", 1.0, who="other")
    assert not still(stalls, "update", 1.0, who="one")


def test_a_look_that_came_late_counts_a_second() -> None:
    stalls = Stalls(3.0)
    assert [stalls.look("w", "compute", (0,), 0, 3600.0) for _ in range(5)] == [False, False, False, False, True]


def test_who_never_gets_a_core_is_not_hung() -> None:
    assert not still(Stalls(1.0), "compute", 3600, held_up=0.5)


def test_an_endless_loop_that_gets_half_a_core_has_twice_the_time() -> None:
    stalls = Stalls(10.0)
    assert not still(stalls, "compute", 19, held_up=0.25)
    assert still(stalls, "compute", 2, held_up=0.25)


def test_time_in_which_one_was_held_up_is_no_usual_pace() -> None:
    stalls = Stalls()
    assert not still(stalls, "compute", 0.0)
    assert not still(stalls, "compute", 60.0, mark=1, held_up=0.45)
    assert not still(stalls, "compute", MULTIPLE * 6.0 - 1, mark=2)
    assert still(stalls, "compute", 4, mark=2)


def test_who_takes_work_over_tells_nothing_of_how_long_it_takes() -> None:
    """A worker that inherits slots begins again: its marks have changed, and no piece of work is done."""
    stalls = Stalls()
    assert not still(stalls, "compute", 0.0, mark="about to begin")
    assert not still(stalls, "compute", 1.0, mark="the first")
    assert not still(stalls, "compute", UNKNOWN_SECONDS - 1, mark="the first, and another's", slots=(0, 1))


def test_patience_given_is_for_work_not_for_beginnings() -> None:
    stalls = Stalls(1.0)
    assert not still(stalls, BEGINNING, UNKNOWN_SECONDS - 1)
    assert still(stalls, BEGINNING, 4)


def test_what_others_take_longer_for_may_take_longer_here() -> None:
    stalls = Stalls()
    for who in ("slow", "w"):
        assert not still(stalls, "compute", 0.0, who=who)
        assert not still(stalls, "compute", 0.5, mark=1, who=who)
    assert not still(stalls, "compute", 1.0, mark=2)  # the floor, so far
    assert not still(stalls, "compute", 2.0, mark=2, who="slow")
    assert not still(stalls, "compute", 0.0, mark=3, who="slow")
    assert not still(stalls, "compute", MULTIPLE * 2.0 - 2, mark=2)


@pytest.mark.parametrize("kind", [LEAVING, STOPPED])
def test_for_what_takes_nobody_long_the_floor_is_enough(kind: str) -> None:
    assert not still(Stalls(), kind, FLOOR_SECONDS - 1)
    assert still(Stalls(), kind, FLOOR_SECONDS + 1)
    assert still(Stalls(1.0), kind, 2)
