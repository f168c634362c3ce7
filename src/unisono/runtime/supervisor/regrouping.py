"""The hosts of a run meet: at its start, and anew when one is lost, leaves or comes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unisono.errors import UsageError
from unisono.errors.failure import Failure
from unisono.runtime.rules.plan import Plan
from unisono.runtime.rules.shutdown import Fate, fate
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_shares import HostShares
from unisono.runtime.supervisor.at_rest import Rest
from unisono.runtime.supervisor.crew_control import CrewControl
from unisono.runtime.supervisor.other_hosts import Companions, Own
from unisono.runtime.supervisor.running import Running
from unisono.runtime.supervisor.site import Site


@dataclass
class Regrouping:
    """This host among the others.

    Args:
        run: the running job.
        site: this host.
        others: the way to the other hosts.
        crew: this host's workers.
        rest: brings them to rest.
    """

    run: Running
    site: Site
    others: Companions
    crew: CrewControl
    rest: Rest

    def join(self, rounds: int) -> int:
        """Come together with the other hosts, all with the same state.

        Args:
            rounds: rounds done here.

        Returns:
            The round that they begin with.

        Raises:
            UsageError: they do not fit together.
        """
        run = self.run
        own = Own(rounds, run.crew.wanted, run.records.latest, self.site.keeper.memory())
        joined = self.others.join(run.described, run.state, own, self.site.ending.is_due)
        if isinstance(joined, Failure):
            if joined.usage:
                raise UsageError(joined.message)
            self.site.ending.fail(joined)
            return max(rounds, 0)
        if joined is None:
            return rounds
        if joined.missed is not None:
            run.hand_on(joined.missed)
        elif joined.rounds != rounds:
            self.site.keeper.remember(joined.memory)
        self.site.caller.joined(joined.host, run.described, run.state, joined.rounds)
        return joined.rounds

    def is_due(self) -> bool:
        """Whether the hosts are to meet anew now; the run may have failed elsewhere instead."""
        self.site.ending.fail(self.others.trouble())
        return self.site.ending.failure is None and self.others.is_called and not self._comes_to_rest

    @property
    def _comes_to_rest(self) -> bool:
        """Whether this host needs no others for the round at hand, and rests after it, as some leave or the run ends.

        That is known a little before the round is exchanged: a connection may break in between.
        """
        exchanged = self.run.control.get(Control.EXCHANGED) > self.run.records.plan.round
        return exchanged and HostShares(self.run.state).stop

    def goes_on_with_fewer(self, plan: Plan) -> bool:
        """All workers have ended; returns whether that was because other hosts leave, and this one goes on."""
        shares, ending = HostShares(self.run.state), self.site.ending
        if not shares.stop or self.run.is_done(plan):
            return False
        shutdowns = shares.shutdowns
        self.others.see_off(shutdowns)
        found = fate(shutdowns, shares.host)
        if found is Fate.ENDS:
            first = next(each for each in shutdowns if each is not None)
            ending.shutdown = replace(ending.shutdown or first, leaves=False)
        if found is not Fate.GOES_ON or ending.shutdown is not None:  # asked to go since then
            return False
        self.regroup()
        return True

    def regroup(self) -> None:
        """Come to rest, meet, go on from the round that the furthest host has done."""
        run = self.run
        self.others.part()
        self.rest.abandon()
        run.drain()
        before, copied = run.records.plan.round, run.control.get(Control.COPIED)
        first = self.join(before)
        run.begin(first)
        run.crew_anew(run.crew.wanted)
        self.crew.begin(first, go_on=self.site.ending.shutdown is None, copy=first > before or copied <= before)
