"""Learning-rate schedules as a function of the rounds done: any process can catch up to any round."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.frameworks.protocol.optimizer import Optimizer
from unisono.memory.segment import Segment
from unisono.runtime.rules.rounds import Program


@dataclass
class Schedule:
    """The schedules of one process's adapter.

    Args:
        program: the run's rounds.
        adapter: holds the schedules.

    Attributes:
        rounds_seen: how many rounds they have been stepped through.
    """

    program: Program
    adapter: Optimizer
    rounds_seen: int = 0

    def catch_up(self, round: int, segment: Segment) -> None:
        """Step the schedules through every round before this one.

        Args:
            round: the one.
            segment: holds the evaluations' results so far, by their number (for schedules that follow them).
        """
        while self.rounds_seen < round:
            past = self.program.at(self.rounds_seen)
            if past.evaluation is None:
                self.adapter.advance_schedule()
            elif past.evaluation == len(self.program.evaluations) - 1 and past.last:
                number = self.program.evaluations_by(past.step - 1)
                self.adapter.advance_plateau(float(segment["losses"][number]), float(segment["watched"][number]))
            self.rounds_seen += 1
