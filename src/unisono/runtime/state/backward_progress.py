"""How far each slot's last backward pass of a round has come, for who sends sums while the rest is being computed.

A slot has one word: the round, the attempt at it, and how many parameters' gradients are complete, counted from the
last parameter, for a backward pass reaches the last ones first. Who begins to compute a slot's share, anew after a
death too, starts another attempt before it writes anything. So who reads sums and finds the same attempt before and
after has read them complete; once the slot has summed nothing is computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from unisono.memory.words import Words, fence
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_state import HostState

_COUNT, _ATTEMPT = 20, 12  # bits of the word


class Progress(NamedTuple):
    """What a slot's word says.

    >>> Progress.of(Progress(3, 1, 7).word())
    Progress(round=3, attempt=1, gradients=7)
    """

    round: int
    attempt: int
    gradients: int

    def word(self) -> int:
        """As a whole number that grows as the slot goes on."""
        return (self.round << _ATTEMPT | self.attempt) << _COUNT | self.gradients

    @staticmethod
    def of(word: int) -> Progress:
        """Read `word` back."""
        return Progress(word >> _COUNT + _ATTEMPT, word >> _COUNT & (1 << _ATTEMPT) - 1, word & (1 << _COUNT) - 1)


class BackwardProgress:
    """The words of a host.

    Args:
        state: its shared state.
    """

    def __init__(self, state: HostState) -> None:
        owners = state.layout.description.owners
        self._trained = [number for number, owner in enumerate(owners) if owner is not None]
        self.total = len(owners)
        self._words, self._control = Words(state.segment, "backward_progress"), state.control

    def begin(self, slot: int, round: int) -> None:
        """Somebody begins to compute the slot's share of a round."""
        before = self.now(slot)
        attempt = (before.attempt + 1) % (1 << _ATTEMPT) if before.round == round else 1
        self._words.publish(slot, Progress(round, attempt, 0).word())
        fence()  # nothing of the new attempt is there before its number

    def listener(self, slot: int) -> Callable[[int], None]:
        """What is called with the number of each parameter whose gradient of the slot's last microbatch is there.

        One that comes again had not been complete: sums are whole before they are sent from then on, and who has sent
        early learns it before the round's exchange ends.
        """
        now = self.now(slot)
        missing, order = set(self._trained), list(self._trained)

        def listen(number: int) -> None:
            if number not in missing:
                self._control.publish(Control.WHOLE, 1)
                return
            missing.discard(number)
            if number != order[-1]:
                return
            while order and order[-1] not in missing:
                order.pop()
            count = self.total - 1 - order[-1] if order else self.total
            self._words.publish(slot, now._replace(gradients=count).word())

        return listen

    def whole(self, slot: int) -> None:
        """Everything of the slot's share is computed."""
        now = self.now(slot)
        self._words.publish(slot, now._replace(gradients=self.total).word())

    def now(self, slot: int) -> Progress:
        """How far a slot has come."""
        return Progress.of(self._words.get(slot))

    def wait(self, slot: int, seen: Progress) -> None:
        """Return once the word says more than what was seen."""
        self._words.wait(slot, seen.word() + 1)
