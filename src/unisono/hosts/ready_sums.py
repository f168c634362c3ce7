"""Which of a host's partial sums are complete, while the rest of a round is being computed."""

from __future__ import annotations

from unisono.memory.words import Words, fence
from unisono.runtime.rules.plan import Plan
from unisono.runtime.state.backward_progress import BackwardProgress
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_state import HostState

Attempts = tuple[int, ...]
"""By slot, the attempt at its share that has left what is read; () once all slots have summed."""


class ReadySums:
    """What an exchange may read.

    Args:
        state: the host's shared state.
    """

    def __init__(self, state: HostState) -> None:
        self._progress, self._control = BackwardProgress(state), state.control
        self._summed = Words(state.segment, "summed")

    def begin(self, plan: Plan) -> None:
        """Turn to a round."""
        self._plan, self._early, self._was_early = plan, not self._control.get(Control.WHOLE), False

    @property
    def was_sound(self) -> bool:
        """Whether nothing was taken for complete that was not; known once all slots have summed."""
        return not (self._was_early and self._control.get(Control.WHOLE))

    def wait_for_all(self) -> None:
        """Return once every slot has summed."""
        for slot in range(self._plan.slots):
            self._summed.wait(slot, self._plan.round + 1)

    def wait_for(self, count: int) -> Attempts:
        """Return once the gradients of so many parameters, from the last one on, are complete in every slot.

        Returns:
            What `holds` asks for after they were read.
        """
        if not self._early or all(self._summed.get(slot) > self._plan.round for slot in range(self._plan.slots)):
            self.wait_for_all()
            return ()
        return tuple(self._attempt(slot, count) for slot in range(self._plan.slots))

    def _attempt(self, slot: int, count: int) -> int:
        while True:
            now = self._progress.now(slot)
            if now.round == self._plan.round and now.gradients >= count:
                return now.attempt
            self._progress.wait(slot, now)

    def holds(self, attempts: Attempts) -> bool:
        """Whether what was read since `wait_for` was complete all the time."""
        fence()  # the numbers of attempts are read after the sums
        found = tuple(self._progress.now(slot).attempt for slot in range(len(attempts)))
        self._was_early = self._was_early or bool(attempts)
        return found == attempts
