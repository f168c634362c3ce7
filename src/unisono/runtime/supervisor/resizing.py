"""What a run is asked while it runs: another number of workers, none for a while (a pause), or to stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unisono.errors import UsageError
from unisono.runtime.rules.plan import Plan
from unisono.runtime.rules.shutdown import ASKED, Shutdown
from unisono.runtime.state.control import Control
from unisono.runtime.supervisor.at_rest import Rest
from unisono.runtime.supervisor.crew_control import CrewControl
from unisono.runtime.supervisor.running import Running
from unisono.runtime.supervisor.site import Site


@dataclass
class Resizing:
    """Answers requests.

    Args:
        run: the running job.
        site: this host.
        crew: its workers.
        rest: brings them to rest.

    Attributes:
        paused: whether the run has no workers for a while.
    """

    run: Running
    site: Site
    crew: CrewControl
    rest: Rest
    paused: bool = False

    def waits(self, plan: Plan) -> bool:
        """Whether the run waits for workers, and is neither done nor to stop."""
        return self.paused and self.site.ending.shutdown is None and self.run.rounds.next(plan.round) is not None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked.

        Raises:
            UsageError: it is not possible.
        """
        if "resize" in request:
            return {"workers": self._resize(request["resize"])}
        if request.get("stop"):
            if self.site.ending.shutdown is None:
                self.site.ending.ask(Shutdown(False, ASKED))
            return {"stopping": True}
        raise UsageError(f"a run can be asked to resize or to stop; received {request}.")

    def _resize(self, wanted: Any) -> int:
        shape = self.run.described.layout.shape
        most, least = shape.most, shape.stages
        if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted not in (0, *range(least, most + 1)):
            stages = f", and at least {least}, one a stage" if least > 1 else ""
            raise UsageError(
                f"a run of this job can have 0 (pause) to {most} workers, one a non-empty microbatch{stages}; received "
                f"{wanted!r}."
            )
        if wanted == 0 and self.site.others:
            raise UsageError("a run over several hosts is not paused; stop it, and resume it later.")
        if wanted == 0:
            self.paused = True
            self.run.control.publish(Control.STOP, 1)
        elif self.paused:
            self._resume_with(wanted)
        else:
            self.crew.resize(wanted)
        return wanted

    def _resume_with(self, wanted: int) -> None:
        """Go on after a pause: the workers that are still leaving go first."""
        run = self.run
        self.rest.abandon()
        run.crew_anew(wanted)
        round_ = run.records.plan.round
        copy = not run.board and run.control.get(Control.COPIED) <= round_  # replicas leave copies themselves
        self.crew.begin(round_, copy=copy)
        self.paused = False  # not before: what cannot be begun is paused still
