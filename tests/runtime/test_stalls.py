"""Patience: adapted to the usual, never less than the floor, and blind to the watcher's own sleep."""

from __future__ import annotations

from unisono.runtime.stalls import FLOOR_SECONDS, MULTIPLE, UNKNOWN_SECONDS, Stalls


def still(stalls: Stalls, kind: str, seconds: float, mark: object = 0, who: str = "w") -> bool:
    """Look every half second at one whose words stand still for so long."""
    return any(stalls.look(who, kind, mark, 0.5) for _ in range(round(2 * seconds) + 1))


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
    stalls.look("w", "compute", 0, 0.1)
    assert not stalls.look("w", "compute", 0, 3600.0)


def test_who_waits_or_is_dead_is_forgotten() -> None:
    stalls = Stalls(1.0)
    assert not still(stalls, "compute", 0.5)
    stalls.forget("w")
    assert not still(stalls, "compute", 0.5)


def test_patience_is_exhausted_when_it_is_exceeded() -> None:
    stalls = Stalls(1.0)
    assert [stalls.look("w", "compute", 0, 0.5) for _ in range(4)] == [False, False, False, True]


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
    assert [stalls.look("w", "compute", 0, 3600.0) for _ in range(5)] == [False, False, False, False, True]
