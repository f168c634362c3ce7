"""A run as a sequence of rounds. A job's is known from its start: pure arithmetic on round numbers.

A step is one round. An evaluation is a run of rounds too (*waves* of as many microbatches as a step has), so that
it is shared out, waited for and recovered in the same way.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from unisono.partition.batches import Batches


@dataclass(frozen=True)
class EvaluationSet:
    """A named evaluation sequence of `length` samples."""

    name: str
    length: int


@dataclass(frozen=True)
class Round:
    """What one round does.

    Attributes:
        number: counted from 0 over the run.
        step: the step that it computes; for a wave the number of steps done.
        evaluation: index of the evaluation set, or None for a training step.
        wave: the wave's number within its evaluation set.
        last: whether it ends the evaluation set.
    """

    number: int
    step: int
    evaluation: int | None = None
    wave: int = 0
    last: bool = False


class Rounds(Protocol):
    """Who decides what the next round does, and when there is none."""

    def next(self, done: int) -> Round | None:
        """What is done once so many rounds are; None = the run is over."""

    def position(self, done: int) -> tuple[int, bool]:
        """(steps done, whether the evaluation due there is done) when so many rounds are done."""


@dataclass(frozen=True)
class Program:
    """All rounds of a job: see `Rounds`.

    Args:
        batches: how the data are cut.
        steps: steps to train; 0 evaluates only.
        evaluate_every: steps between evaluations; None = at the end of each epoch.
        evaluations: the evaluation sets.

    >>> program = Program(Batches(8, 4, 2, False), 4, None, (EvaluationSet("evaluation", 5),))
    >>> [(r.step, r.evaluation, r.wave) for r in map(program.at, range(8))]
    [(0, None, 0), (1, None, 0), (2, 0, 0), (2, 0, 1), (2, None, 0), (3, None, 0), (4, 0, 0), (4, 0, 1)]
    """

    batches: Batches
    steps: int
    evaluate_every: int | None
    evaluations: tuple[EvaluationSet, ...]

    @property
    def wave_size(self) -> int:
        """Samples of a full wave."""
        return self.batches.microbatch_size * self.batches.microbatches

    def _waves(self, evaluation: int) -> int:
        return -(-self.evaluations[evaluation].length // self.wave_size)

    @property
    def _every(self) -> int:
        return self.evaluate_every or self.batches.steps_per_epoch

    @cached_property
    def evaluation_times(self) -> int:
        """How often the run evaluates."""
        return max(1, -(-self.steps // self._every)) if self.evaluations else 0

    def evaluation_step(self, number: int) -> int:
        """How many steps are done at an evaluation; evaluations count from 0."""
        return min((number + 1) * self._every, self.steps)

    def evaluations_by(self, step: int) -> int:
        """How many evaluations are due until so many steps are done, the one that is due there included."""
        return self.evaluation_times if step >= self.steps else min(max(step // self._every, 0), self.evaluation_times)

    @cached_property
    def waves_per_evaluation(self) -> int:
        """Rounds of one evaluation over all its sets."""
        return sum(self._waves(index) for index in range(len(self.evaluations)))

    @property
    def rounds(self) -> int:
        """How many rounds the run has."""
        return self.steps + self.evaluation_times * self.waves_per_evaluation

    def first_round(self, step: int, evaluated: bool) -> int:
        """The round to do when `step` steps are done, and the evaluation due there too or not."""
        return step + self.evaluations_by(step if evaluated else step - 1) * self.waves_per_evaluation

    def next(self, done: int) -> Round | None:
        """See `Rounds`."""
        return self.at(done) if done < self.rounds else None

    def position(self, done: int) -> tuple[int, bool]:
        """See `Rounds`."""
        round_ = self.next(done)
        step = self.steps if round_ is None else round_.step
        return step, self.first_round(step, True) == done != self.first_round(step, False)

    def at(self, number: int) -> Round:
        """The round of a number, counted from 0."""
        step_of, waves = self.evaluation_step, self.waves_per_evaluation
        # evaluation k begins at round step_of(k) + k · waves
        k = bisect_right(range(self.evaluation_times), number, key=lambda k: step_of(k) + k * waves) - 1
        if k < 0:
            return Round(number, number)
        wave = number - step_of(k) - k * waves
        if wave >= waves:
            return Round(number, number - (k + 1) * waves)
        for evaluation in range(len(self.evaluations)):
            count = self._waves(evaluation)
            if wave < count:
                return Round(number, step_of(k), evaluation, wave, wave == count - 1)
            wave -= count
        raise AssertionError("an evaluation has as many waves as its sets")

    def samples(self, round_: Round, microbatch: int) -> int:
        """How many samples a microbatch of a round has; 0 = empty."""
        return len(self.positions(round_, microbatch))

    def positions(self, round_: Round, microbatch: int) -> range:
        """Positions in the epoch's order (training) or in the evaluation set."""
        if round_.evaluation is None:
            return self.batches.positions(round_.step, microbatch)
        size = self.batches.microbatch_size
        length = self.evaluations[round_.evaluation].length
        start = round_.wave * self.wave_size + microbatch * size
        return range(min(start, length), min(start + size, length))

    def nonempty(self, round_: Round) -> int:
        """How many microbatches of a round have samples; they are the first ones."""
        if round_.evaluation is None:
            return self.batches.nonempty(round_.step)
        left = self.evaluations[round_.evaluation].length - round_.wave * self.wave_size
        return -(-min(left, self.wave_size) // self.batches.microbatch_size)
