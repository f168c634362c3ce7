"""The plan of the next round, which the first slot stamps at the end of each."""

from __future__ import annotations

from unisono.runtime.rules.balance import balanced
from unisono.runtime.rules.plan import Plan, following
from unisono.runtime.rules.rounds import Round
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_shares import HostShares
from unisono.runtime.worker.context import Context


def stamp_next(context: Context, plan: Plan, round_: Round) -> None:
    """Leave the next round's plan, unless a predecessor already has.

    Args:
        context: what the work needs.
        plan, round_: the round that ends.
    """
    state, program, number = context.state, context.program, plan.round + 1
    if any(other is not None and other.round == number for other in state.plans.read()):
        return
    members, shares = state.plans.seats(), HostShares(state)
    next_round = program.next(number)
    training = next_round is None or next_round.evaluation is None
    stages = state.layout.shape.stages if training else 1
    hosts = shares.of_round(training)
    boundaries = _boundaries(context, plan, round_, len(members), stages, shares.own(hosts))
    stop, asked = bool(state.control.get(Control.STOP)), state.control.get(Control.ASKED)
    if shares.several:  # all of them make the same plan, of what they agreed on
        stop, asked = shares.stop, shares.asked
    due = _copy_is_due(context, round_, next_round)
    state.plans.stamp(following(plan, boundaries, members, stages, due, asked, stop or next_round is None, hosts))


def _boundaries(
    context: Context, plan: Plan, round_: Round, slots: int, stages: int, own: range
) -> tuple[int, ...]:  # fmt: skip
    """The pipes' next shares of this host's microbatches; measured paces count after training rounds only."""
    same = (slots, stages, own.start, own.stop) == (plan.slots, plan.stages, plan.own.start, plan.own.stop)
    if round_.evaluation is not None and same:
        return plan.boundaries
    pipes = slots // stages
    before = [boundary - own.start for boundary in plan.boundaries] if same else None
    pace = context.state.segment["pace"][:pipes].tolist()
    return tuple(own.start + boundary for boundary in balanced(len(own), pipes, pace, before))


def _copy_is_due(context: Context, round_: Round, next_round: Round | None) -> bool:
    if round_.evaluation is not None:
        return context.request.checkpoint_evaluations and (next_round is None or next_round.evaluation is None)
    return context.request.checkpoint_steps is not None and (round_.step + 1) % context.request.checkpoint_steps == 0
