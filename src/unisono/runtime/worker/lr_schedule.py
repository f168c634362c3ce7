"""Learning-rate schedules as a function of the rounds done: any process can catch up to any round."""

from __future__ import annotations

from typing import Any

from unisono.memory.segment import Segment
from unisono.runtime.rules.rounds import Program


class Schedule:
    """The schedules of one process's adapter.

    Args:
        program: the run's rounds.
        adapter: holds the schedules; remembers how many rounds they have seen.
        segment: holds the evaluations' results so far, by their number (for schedules that follow them).
    """

    def __init__(self, program: Program, adapter: Any, segment: Segment) -> None:
        self._program, self._adapter = program, adapter
        self._losses, self._watched = segment["losses"], segment["watched"]

    def catch_up(self, round: int) -> None:
        """Step the schedules through every round before this one."""
        while self._adapter.rounds_seen < round:
            past = self._program.at(self._adapter.rounds_seen)
            if past.evaluation is None:
                self._adapter.advance_schedule()
            elif past.evaluation == len(self._program.evaluations) - 1 and past.last:
                number = self._program.evaluations_by(past.step - 1)
                self._adapter.advance_plateau(float(self._losses[number]), float(self._watched[number]))
            self._adapter.rounds_seen += 1
