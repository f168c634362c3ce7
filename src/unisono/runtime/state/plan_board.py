"""Where the plans of rounds stand for every process of a host, and who is to sit where from the next one on."""

from __future__ import annotations

from collections.abc import Sequence

from unisono.memory.segment import Segment
from unisono.memory.words import Words, fence
from unisono.runtime.rules.plan import Plan, in_force
from unisono.runtime.state.control import Control


class PlanBoard:
    """The plans of the present round and its neighbour, and the seats.

    Args:
        segment: the host's.
        control: the supervisor's words.
    """

    def __init__(self, segment: Segment, control: Words) -> None:
        self._areas = [memoryview(area).cast("B").cast("q") for area in segment["plans"]]
        self._known: list[tuple[list[int], Plan | None]] = [([], None), ([], None)]
        self._seats, self._control = segment["seats"], control
        self._committed = Words(segment, "committed")

    def read(self) -> list[Plan | None]:
        """Both plans; None for one that is being written.

        A plan was whole while it was read if it had the same number before and after that.
        """
        found: list[Plan | None] = []
        for parity, area in enumerate(self._areas):
            number = area[0]
            fence()
            words = area.tolist()
            fence()
            if not number or not number == words[0] == area[0]:
                found.append(None)
                continue
            if self._known[parity][0] != words:
                self._known[parity] = words, Plan.from_words(words)
            found.append(self._known[parity][1])
        return found

    def in_force(self) -> Plan | None:
        """The plan whose round is being done; None while it cannot be told."""
        return in_force(self.read(), self._committed.get)

    def stamp(self, plan: Plan) -> None:
        """Leave a plan for everyone: first nothing, then its content, then its number."""
        area, words = self._areas[plan.round & 1], plan.to_words()
        area[0] = 0
        fence()
        for index, word in enumerate(words[1:], 1):
            area[index] = word
        fence()
        area[0] = words[0]

    def withdraw(self) -> None:
        """No plan is in force until the next one is stamped: who comes now must not take an old one for it."""
        for area in self._areas:
            area[0] = 0

    def seats(self) -> tuple[int, ...]:
        """Who sits where from the next plan on."""
        return tuple(self._seats[: self._control.get(Control.SEATS)].tolist())

    def seat(self, members: Sequence[int]) -> None:
        """The supervisor seats members; whatever mixture of old and new is seen meanwhile is sound."""
        self._seats[: len(members)] = members
        self._control.publish(Control.SEATS, len(members))
