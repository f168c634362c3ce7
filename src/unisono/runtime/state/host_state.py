"""The shared state of one host: the model, the plans, and the words of its processes."""

from __future__ import annotations

from unisono.memory.segment import Segment
from unisono.memory.words import Words
from unisono.runtime.state.control import Control
from unisono.runtime.state.heirs import Heirs
from unisono.runtime.state.layout import HostLayout
from unisono.runtime.state.model_state import ModelState
from unisono.runtime.state.plan_board import PlanBoard


class HostState(ModelState):
    """Typed views of the shared segment.

    Args:
        layout: how it is laid out.
        segment: it.
    """

    def __init__(self, layout: HostLayout, segment: Segment) -> None:
        super().__init__(layout, segment)
        self.heirs = Heirs(segment["heirs"])
        self.control = Words(segment, "control")
        self.plans = PlanBoard(segment, self.control)

    def begin(self, round: int) -> None:
        """Set every word to the start of a round; nobody works yet."""
        for name in ("summed", "normed", "committed"):
            self.segment[name][:, 0] = round
        self.segment["backward_progress"][:, 0] = 0  # the same round may be shared out otherwise than it was
        for word in (Control.DRAINED, Control.COPIED, Control.EXCHANGED):
            self.control.publish(word, round)
        self.segment["used"][-1] = 0  # what other hosts have used: they may be gone
