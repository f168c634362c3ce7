"""What the parts of a supervisor share besides the running job."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.runtime.preparation.outline import JobFacts
from unisono.runtime.rules.request import Request
from unisono.runtime.supervisor.ending import Ending
from unisono.runtime.supervisor.other_hosts import Companions
from unisono.runtime.supervisor.outputs import Outputs
from unisono.runtime.supervisor.warm_parent_client import WarmParent
from unisono.runtime.supervisor.watcher import Caller, Listener, StateKeeper


@dataclass(frozen=True)
class Site:
    """One run's, on one host.

    Attributes:
        job: what is known of it here.
        request: what of the job, on what.
        host: the warm parent.
        outputs: reads what processes print; its selector says what has come from anywhere.
        listener, keeper, caller: whoever has the run supervised.
        ending: why the run is to end.
        others: the way to the other hosts; None = this one is alone.
    """

    job: JobFacts
    request: Request
    host: WarmParent
    outputs: Outputs
    listener: Listener
    keeper: StateKeeper
    caller: Caller
    ending: Ending
    others: Companions | None
