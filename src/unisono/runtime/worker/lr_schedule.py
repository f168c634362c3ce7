"""Learning-rate schedules as a function of the rounds done: any process can catch up to any round."""

from __future__ import annotations

from unisono.frameworks.protocol.optimizer import Optimizer
from unisono.memory.segment import Segment
from unisono.runtime.rules.rounds import Program


class Schedule:
    """The schedules of one process's adapter.

    Args:
        program: the run's rounds.
        adapter: holds the schedules.

    Attributes:
        rounds_seen: how many rounds they have been stepped through.
    """

    def __init__(self, program: Program, adapter: Optimizer) -> None:
        self._program, self._adapter = program, adapter
        self.rounds_seen = 0

    def catch_up(self, round: int, segment: Segment) -> None:
        """Step the schedules through every round before this one.

        Args:
            round: the one.
            segment: holds the evaluations' results so far, by their number (for schedules that follow them).
        """
        while self.rounds_seen < round:
            past = self._program.at(self.rounds_seen)
            if past.evaluation is None:
                self._adapter.advance_schedule()
            elif past.evaluation == len(self._program.evaluations) - 1 and past.last:
                number = self._program.evaluations_by(past.step - 1)
                self._adapter.advance_plateau(float(segment["losses"][number]), float(segment["watched"][number]))
            self.rounds_seen += 1
