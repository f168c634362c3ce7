"""The life of a worker that owns a device: see which generation is at work, do what the rule says, wait, again.

Every decision is `next_device_action`; this file only carries it out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from unisono.frameworks.protocol import ExchangeLost, Group, Pending, Replica
from unisono.memory.words import Words
from unisono.runtime.replicas.rounds import ReplicaRounds, outputs_again
from unisono.runtime.rules.device_actions import DEVICE_WAITS, DeviceAction, DeviceLook, Own, next_device_action
from unisono.runtime.rules.generations import Generation, stamp
from unisono.runtime.state.control import Control
from unisono.runtime.state.generation_board import GenerationBoard
from unisono.runtime.state.layout import ACTION, MEMBERS, RECORDS
from unisono.runtime.worker.context import Context
from unisono.runtime.worker.evaluation import EvaluationSums

LOOK_SECONDS = 0.001
"""How often a worker looks whether its generation was ended, while it waits for others."""

LOST_SECONDS = 30.0
"""For how long a worker whose exchange is lost waits for the end of its generation."""

POLL_SECONDS = 50e-6
"""How often a worker looks whether its exchange is complete."""


class ReplicaWorker:
    """One member.

    Args:
        member: its number.
        context: what the work needs.
        replica: its own.
        spin_seconds: how long waits look before they sleep.
        poke: wakes the supervisor.
    """

    def __init__(
        self, member: int, context: Context, replica: Replica, spin_seconds: float, poke: Callable[[], None]
    ) -> None:
        self._member, self._context, self._replica, self._poke = member, context, replica, poke
        self._state, self._program = context.state, context.program
        self._board = GenerationBoard(context.state, spin_seconds)
        self._control = Words(context.state.segment, "control", spin_seconds)
        self._evaluation = EvaluationSums(context, partial(outputs_again, context, replica))
        self._own = Own()
        self._pending: Pending | None = None
        self._rounds: ReplicaRounds | None = None

    def run(self) -> None:
        """Work until the supervisor says that the run is over.

        Raises:
            WorkerFailed: the job failed here.
        """
        self._state.segment["joined"][self._member % MEMBERS] = self._member + 1
        self._poke()
        while not self._is_over():
            found = self._board.read()
            rank = found[0].rank(self._member) if found else None
            if found is None or rank is None:
                time.sleep(LOOK_SECONDS)
            else:
                self._look(*found, rank)

    def _is_over(self) -> bool:
        plan = self._state.plans.in_force()
        return plan is not None and plan.stop

    def _look(self, now: Generation, store: str, rank: int) -> None:
        look = DeviceLook(
            now, self._control.get(Control.ENDED), [self._board.words(member) for member in now.members],
            self._board.copied(), self._control.get(Control.COPIED), self._control.get(Control.DRAINED),
        )  # fmt: skip
        done = look.words[rank].held - 1
        round_ = self._program.next(done) if done >= 0 else None
        training = None if round_ is None else round_.evaluation is None
        action = next_device_action(look, rank, self._own, training, self._is_due(done), self._is_judged(done), RECORDS)
        waits = action in DEVICE_WAITS or action is DeviceAction.FAIL  # whose row it is tells of it
        self._state.segment["computing"][rank, ACTION] = 0 if waits else look.words[rank].held + 1
        if waits:
            self._wait(action, look, rank)
            return
        self._phase(action.name.lower(), done, rank)
        if action is DeviceAction.JOIN:
            self._replica.join(Group(now.group, rank, len(now.members), store))
            self._own = Own(joined=now.number)
        elif action is DeviceAction.LEAVE:
            self._leave(now)
        elif action is DeviceAction.LOAD:
            self._load(now, rank)
        elif action is DeviceAction.STAGE:
            self._stage(look.older, done, rank)
        else:
            self._in_round(action, now, rank, done)

    def _is_due(self, done: int) -> bool:
        """Whether a checkpoint is due before the next round: by the settings, or as the supervisor has asked."""
        if done < 0 or self._control.get(Control.ASKED) > self._control.get(Control.SERVED):
            return done >= 0
        request, (step, evaluated) = self._context.request, self._program.position(done)
        if evaluated or self._follows_wave(done):
            return request.checkpoint_evaluations and self._follows_evaluations(done)
        return request.checkpoint_steps is not None and done > 0 and step % request.checkpoint_steps == 0

    def _is_judged(self, done: int) -> bool:
        """Whether patience may be over before the next round."""
        return self._context.job.patience is not None and self._follows_evaluations(done)

    def _follows_evaluations(self, done: int) -> bool:
        """Whether the last round was the last one of the evaluations after a step."""
        next_round = self._program.next(done) if self._follows_wave(done) else None
        return self._follows_wave(done) and (next_round is None or next_round.evaluation is None)

    def _follows_wave(self, done: int) -> bool:
        return done > 0 and self._program.at(done - 1).evaluation is not None

    def _wait(self, action: DeviceAction, look: DeviceLook, rank: int) -> None:
        number = look.generation.number
        if action is DeviceAction.AWAIT_EXCHANGE:
            assert self._pending
            try:
                done = self._pending.done()
            except ExchangeLost:  # of a partner's death the supervisor hears too, and ends the generation
                self._wait_for_end(number)
            else:
                if done:
                    self._own, self._pending = replace(self._own, complete=True), None
                else:
                    time.sleep(POLL_SECONDS)
        elif action is DeviceAction.AWAIT_HEADERS:
            target = stamp(number, look.words[rank].held - 1)
            late = next(
                m for m, words in zip(look.generation.members, look.words, strict=True) if words.headed < target
            )

            def is_ended() -> bool:
                return self._control.get(Control.ENDED) >= number

            self._board.headed.wait(late % MEMBERS, target, is_ended, LOOK_SECONDS)
        else:
            time.sleep(LOOK_SECONDS)

    def _wait_for_end(self, number: int) -> None:
        """Wait until a generation is ended.

        Raises:
            ExchangeLost: nobody ends it, so this process ends itself.
        """
        lost = time.monotonic()
        while self._control.get(Control.ENDED) < number:
            if time.monotonic() > lost + LOST_SECONDS:
                raise ExchangeLost("an exchange was lost, and no process of the group has died")
            time.sleep(LOOK_SECONDS)

    def _leave(self, now: Generation) -> None:
        self._replica.leave()
        self._own, self._pending, self._rounds = Own(), None, None
        self._board.rested.publish(self._member % MEMBERS, now.number)
        self._poke()

    def _phase(self, name: str, round: int, rank: int) -> None:
        self._context.request.phase(name, round, rank, 0)

    def _load(self, now: Generation, rank: int) -> None:
        values, rounds = self._board.newest()
        assert rounds == now.round
        segment = self._state.segment
        copied = self._board.copies.index(values)
        self._replica.load(values, self._program.position(rounds)[0])
        segment["totals"][...] = segment["copied_totals"][copied]
        self._phase("loaded", rounds, rank)
        self._board.held.publish(self._member % MEMBERS, rounds + 1)

    def _stage(self, index: int, done: int, rank: int) -> None:
        segment, values = self._state.segment, self._board.begin_copy(index)
        self._replica.store(values, self._program.position(done)[0])
        self._phase("staged", done, rank)
        segment["copied_totals"][index] = segment["totals"]
        self._board.end_copy(index, done)
        self._poke()

    def _in_round(self, action: DeviceAction, now: Generation, rank: int, done: int) -> None:
        if self._rounds is None or self._rounds.generation.number != now.number:
            self._rounds = ReplicaRounds(self._context, self._replica, self._evaluation, now, rank)
        rounds, round_, at = self._rounds, self._program.at(done), self._member % MEMBERS
        if action is DeviceAction.COMPUTE:
            if rounds.compute(round_, lambda: self._control.get(Control.ENDED) >= now.number):
                self._board.headed.publish(at, stamp(now.number, done))
        elif action is DeviceAction.EXCHANGE:
            self._pending = rounds.exchange(round_)
            self._own = Own(now.number, stamp(now.number, done))
        else:
            rounds.finish(round_)
            self._phase("updated", done, rank)
            self._board.held.publish(at, done + 2)
            self._poke()
