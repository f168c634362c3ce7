"""Who belongs to a run: the policy under any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisono.hosts.membership import GRACE_SECONDS, Call, Gathered, Membership, Refused, Seen, Waiting

TIMEOUT = 5.0


def begun(count: int, least: int | None = None) -> tuple[Membership, dict[int, Seen]]:
    """A run on so many hosts, which have come together."""
    membership = Membership(count, TIMEOUT, least)
    seen = {number: Seen(count - number, 0.0, f"address {number}") for number in range(1, count + 1)}
    assert membership.look(0.0, seen) == Call(1)
    for host in seen.values():
        host.answered, host.report[1] = 1, {}
    assert membership.look(0.0, seen) == Gathered(1, tuple(reversed(seen)))
    return membership, seen


def test_a_host_has_two_seconds_to_answer() -> None:
    assert GRACE_SECONDS == 2.0  # docs/hosts.md


def test_all_expected_hosts_are_awaited() -> None:
    membership = Membership(2, TIMEOUT)
    seen = {1: Seen(0, 0.0, report={1: {}})}
    assert membership.look(0.0, seen) == Call(1)
    assert membership.look(1.0, seen) is None
    seen[2] = Seen(1, 1.0)
    assert membership.look(1.0, seen) is None  # it is there, but not ready
    seen[2].report[1] = {}
    assert membership.look(1.1, seen) == Gathered(1, (1, 2))


def test_a_silent_host_is_left_out() -> None:
    membership, seen = begun(3)
    seen[1].heard = seen[3].heard = 6.0
    assert membership.look(6.0, seen) == Call(2)
    for number in (1, 3):
        seen[number].answered, seen[number].report[2] = 2, {}
    assert membership.look(6.1, seen) == Gathered(2, (3, 1))
    seen[2].heard, seen[2].report[2] = 6.2, {}
    assert membership.look(6.2, seen) is None  # it comes back too late


def test_a_host_whose_connections_broke_has_a_little_time() -> None:
    membership, seen = begun(2)
    seen[1].broken.add(1)
    seen[2].suspected.add(1)
    assert membership.look(0.1, seen) == Call(2)
    seen[1].answered, seen[1].report[2] = 2, {}
    assert membership.look(0.2, seen) is None
    assert membership.look(0.2 + GRACE_SECONDS, seen) == Gathered(2, (1,))


def test_one_that_answers_is_awaited_though_another_could_not_reach_it() -> None:
    membership, seen = begun(2)
    seen[1].broken.add(1)
    seen[2].suspected.add(1)
    assert membership.look(0.1, seen) == Call(2)
    seen[1].answered, seen[1].report[2], seen[2].answered = 2, {}, 2
    assert membership.look(4.0, seen) is None
    seen[2].report[2] = {}
    assert membership.look(4.1, seen) == Gathered(2, (2, 1))


def test_one_whose_heart_beats_is_awaited_however_slow_it_is() -> None:
    membership, seen = begun(2)
    seen[1].broken.add(1)
    seen[2].suspected.add(1)
    assert membership.look(0.1, seen) == Call(2)
    seen[1].answered, seen[1].report[2], seen[2].heard = 2, {}, 1.0
    assert membership.look(1.0 + GRACE_SECONDS, seen) is None
    seen[2].answered, seen[2].report[2] = 2, {}
    assert membership.look(4.1, seen) == Gathered(2, (2, 1))


def test_a_newcomer_joins() -> None:
    membership, seen = begun(1)
    seen[2] = Seen(7, 1.0)
    assert membership.look(1.0, seen) == Call(2)
    for host in seen.values():
        host.answered, host.report[2] = 2, {}
    assert membership.look(1.1, seen) == Gathered(2, (1, 2))


def test_nobody_is_called_once_the_run_is_over() -> None:
    membership, seen = begun(2)
    seen[1].left = True
    seen[2].heard, seen[3] = 99.0, Seen(7, 99.0)
    assert membership.look(99.0, seen) is None


def test_who_has_lost_one_that_has_finished_does_the_rest_alone() -> None:
    membership, seen = begun(2)
    seen[1].left = True
    seen[2].broken.add(1)
    assert membership.look(1.0, seen) == Call(2)
    seen[2].answered, seen[2].report[2] = 2, {}
    assert membership.look(1.1, seen) == Gathered(2, (2,))


def after_broken_connections(count: int, *pairs: tuple[int, int]) -> tuple[Membership, dict[int, Seen], Gathered]:
    """What becomes of so many hosts where one of each pair says that it does not reach the other."""
    membership, seen = begun(count)
    for one, other in pairs:
        seen[one].unreachable[1] = [*seen[one].unreachable.get(1, ()), other]
        seen[other].suspected.add(1)
    assert membership.look(0.1, seen) is None  # others may be about to say so too
    assert membership.look(0.2 + GRACE_SECONDS, seen) == Call(2)
    for host in seen.values():
        host.heard, host.answered, host.report[2] = 3.0, 2, {}
    gathered = membership.look(3.0, seen)
    assert isinstance(gathered, Gathered)
    return membership, seen, gathered


@pytest.mark.parametrize(
    ("count", "pairs", "hosts", "out"),
    [
        (2, [(1, 2)], (2,), {1: (2,)}),  # host 2 is the first in order, 1 the last
        (2, [(2, 1)], (2,), {1: (2,)}),
        (3, [(2, 1), (1, 2)], (3, 2), {1: (2,)}),
        (4, [(3, 1), (3, 2)], (4, 2, 1), {3: (2, 1)}),
        (4, [(1, 3), (2, 3)], (4, 2, 1), {3: (2, 1)}),
        (4, [(4, 1), (4, 2), (4, 3)], (4,), {1: (4,), 2: (4,), 3: (4,)}),  # the first stays
        (4, [(1, 2), (3, 4)], (4, 2), {1: (2,), 3: (4,)}),
    ],
)
def test_of_hosts_that_do_not_reach_each_other_the_smaller_part_is_left_out(
    count: int, pairs: list[tuple[int, int]], hosts: tuple[int, ...], out: dict[int, tuple[int, ...]]
) -> None:
    membership, _, gathered = after_broken_connections(count, *pairs)
    assert gathered == Gathered(2, hosts, out)
    assert membership.hosts == hosts


def test_who_comes_from_where_one_was_left_out_is_refused_and_nobody_is_called() -> None:
    membership, seen, _ = after_broken_connections(3, (1, 2))
    seen[4] = Seen(2, 3.0, "address 1")
    assert membership.look(3.1, seen) == Refused(4, (2,))
    assert membership.look(3.2, seen) is None
    seen[5] = Seen(2, 3.3, "address 5")
    assert membership.look(3.3, seen) == Call(3)


def test_an_unreachable_host_that_is_silent_is_just_lost() -> None:
    membership, seen = begun(3)
    seen[2].unreachable[1], seen[3].unreachable[1] = [1], [1]
    seen[1].suspected.add(1)
    assert membership.look(0.0, seen) is None
    assert membership.look(0.1 + GRACE_SECONDS, seen) == Call(2)
    for number in (2, 3):
        seen[number].heard, seen[number].answered, seen[number].report[2] = 4.0, 2, {}
    assert membership.look(4.0, seen) is None
    assert membership.look(5.1, seen) == Gathered(2, (3, 2))
    seen[4] = Seen(2, 5.2, "address 1")
    assert membership.look(5.2, seen) == Call(3)


@given(st.integers(2, 6), st.data())
def test_those_who_go_on_all_reach_each_other(count: int, data: st.DataObject) -> None:
    numbers = st.integers(1, count)
    pairs = data.draw(st.lists(st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1]), max_size=12))
    if not pairs:
        return
    _, _, gathered = after_broken_connections(count, *pairs)
    assert gathered.hosts[0] == count  # the first in order
    assert not any({one, other} <= set(gathered.hosts) for one, other in pairs)
    assert set(gathered.hosts) | set(gathered.unreachable) == set(range(1, count + 1))
    out = {frozenset(pair) for pair in pairs}
    assert all(
        others and all({host, other} in out for other in others) for host, others in gathered.unreachable.items()
    )
    mirrored = [pair if data.draw(st.booleans()) else pair[::-1] for pair in data.draw(st.permutations(pairs))]
    assert after_broken_connections(count, *mirrored)[2] == gathered  # whoever of two says it, and in whichever order


@pytest.mark.thorough
@given(st.data())
def test_generations_follow_each_other_and_hold_only_living_hosts_that_reported(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    membership, seen = begun(count)
    now, generation, called = 0.0, 1, None
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.sampled_from([0.1, 1.0, 3.0]))
        for number, host in seen.items():
            what = data.draw(st.sampled_from(["beat", "beat", "answer", "report", "break", "tear", "nothing"]))
            if what != "nothing":
                host.heard = now
            if what in ("answer", "report") and called:
                host.answered = called
            if what == "report" and called:
                host.report[called] = {}
            if what == "break":
                host.broken.add(generation)
                seen[data.draw(st.sampled_from(sorted(seen)))].suspected.add(generation)
            if what == "tear":
                host.unreachable[generation] = [other for other in seen if other != number][:2]
            assert number in seen
        if data.draw(st.booleans()) and len(seen) < 6:
            seen[len(seen) + 1] = Seen(len(seen), now, f"address {data.draw(st.integers(1, 6))}")
        decision = membership.look(now, seen)
        if isinstance(decision, Call):
            assert (called, decision.generation) == (None, generation + 1)
            called = decision.generation
        elif isinstance(decision, Gathered):
            assert decision.generation == called == generation + 1
            assert decision.hosts
            assert all(now - seen[number].heard <= TIMEOUT for number in decision.hosts)
            assert all(called in seen[number].report for number in decision.hosts)
            generation, called = decision.generation, None


def test_a_newcomer_that_is_gone_again_calls_nobody() -> None:
    membership, seen = begun(1)
    seen[1].heard, seen[2] = 99.0, Seen(7, 99.0 - TIMEOUT - 0.5)
    assert membership.look(99.0, seen) is None
    seen[2].heard = 99.0 - TIMEOUT
    assert membership.look(99.0, seen) == Call(2)


def test_grace_is_over_once_it_is_exceeded() -> None:
    membership, seen = begun(2)
    seen[1].unreachable[1] = [2]
    for now in (1.0, 1.0 + GRACE_SECONDS):
        assert membership.look(now, seen) is None
    assert membership.look(1.5 + GRACE_SECONDS, seen) == Call(2)
    membership, seen = begun(2)
    seen[1].broken.add(1)
    seen[2].suspected.add(1)
    seen[2].heard = 1.0  # just when it is called
    assert membership.look(1.0, seen) == Call(2)
    seen[1].answered, seen[1].report[2] = 2, {}
    assert membership.look(1.0 + GRACE_SECONDS, seen) is None
    assert membership.look(1.5 + GRACE_SECONDS, seen) == Gathered(2, (1,))


def test_who_was_left_out_once_is_left_out_for_ever() -> None:
    membership, seen, _ = after_broken_connections(3, (1, 2))
    seen[2].unreachable[2] = [3]
    assert membership.look(3.1, seen) is None
    assert membership.look(3.2 + GRACE_SECONDS, seen) == Call(3)
    for host in seen.values():
        host.heard, host.answered, host.report[3] = 6.0, 3, {}
    assert membership.look(6.0, seen) == Gathered(3, (3,), {2: (3,)})
    seen[4] = Seen(2, 6.0, "address 1")
    seen[5] = Seen(1, 6.0, "address 2")
    assert membership.look(6.1, seen) == Refused(4, (2,))
    assert membership.look(6.1, seen) == Refused(5, (3,))


def test_who_leaves_is_waited_for_by_nobody() -> None:
    membership, seen = begun(3)
    seen[2].gone = True
    assert membership.look(0.1, seen) == Call(2)
    for number in (1, 3):
        seen[number].answered, seen[number].report[2] = 2, {}
    assert membership.look(0.1, seen) == Gathered(2, (3, 1))
    seen[2].left = True
    assert membership.look(0.2, seen) is None


def test_with_less_than_the_least_the_others_wait() -> None:
    membership, seen = begun(2, least=2)
    seen[1].gone = True
    assert membership.look(0.1, seen) == Call(2)
    seen[2].answered, seen[2].report[2] = 2, {}
    assert membership.look(0.2, seen) is None
    assert membership.waiting(0.2, seen) is None, "not worth a word yet"
    seen[2].heard = 9.0
    assert membership.look(9.0, seen) is None
    assert membership.waiting(9.0, seen) == Waiting((2,), (), 2)
    seen[3] = Seen(7, 9.0)
    assert membership.waiting(9.0, seen) == Waiting((2,), (3,), 2)
    seen[3].answered, seen[3].report[2] = 2, {}
    assert membership.look(9.0, seen) == Gathered(2, (2, 3))
    assert membership.waiting(99.0, seen) is None


def test_who_is_left_out_is_none_of_the_least() -> None:
    membership, seen = begun(3, least=3)
    seen[1].unreachable[1] = [2]
    seen[2].suspected.add(1)
    assert membership.look(0.1, seen) is None
    assert membership.look(0.2 + GRACE_SECONDS, seen) == Call(2)
    for host in seen.values():
        host.heard, host.answered, host.report[2] = 3.0, 2, {}
    assert membership.look(3.0, seen) is None


def test_nobody_waits_for_more_once_the_run_is_over() -> None:
    membership, seen = begun(2, least=2)
    seen[1].left = True
    seen[2].broken.add(1)
    assert membership.look(1.0, seen) == Call(2)
    seen[2].answered, seen[2].report[2] = 2, {}
    assert membership.look(1.1, seen) == Gathered(2, (2,))


def test_a_run_begins_with_the_least_where_others_are_late() -> None:
    membership = Membership(3, TIMEOUT, 2)
    seen = {number: Seen(number, 0.0, report={1: {}}) for number in (1, 2)}
    assert membership.look(0.0, seen) == Call(1)
    for now in (0.0, TIMEOUT):
        seen[1].heard = seen[2].heard = now
        assert membership.look(now, seen) is None
    seen[1].heard = seen[2].heard = TIMEOUT + 0.1
    assert membership.look(TIMEOUT + 0.1, seen) == Gathered(1, (1, 2))


def test_a_run_begins_without_those_that_were_told_to_go() -> None:
    membership = Membership(3, TIMEOUT)
    seen = {number: Seen(number, 0.0, report={1: {}}) for number in (1, 2, 3)}
    seen[2].gone = seen[2].left = True
    assert membership.look(0.0, seen) == Call(1)
    assert membership.look(0.0, seen) == Gathered(1, (1, 3))
