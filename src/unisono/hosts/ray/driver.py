"""The driver of a run on Ray: serves the store, decides who belongs to the run, replaces hosts that are lost.

The hosts train by themselves. Without one of them the others go on, and the driver asks Ray for another in its
place, which comes when Ray has a node for it, and falls in.
"""

from __future__ import annotations

import time
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from unisono.errors import JobError, UsageError
from unisono.hosts.coordinator import Coordinator
from unisono.hosts.ray.actor import CALLS, RayHost
from unisono.hosts.ray.messages import Ended, News, Order
from unisono.hosts.store import Store
from unisono.hosts.terms import Term, exchange
from unisono.observe.progress import Display
from unisono.runs.interrupts import Interrupts
from unisono.settings import Settings

LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 20.0
"""How long the others may take to end once one host has ended."""

STOP_SECONDS = 60.0
MOST_PAUSE_SECONDS = 10.0
"""Between two attempts to get a host from Ray, which notices a node's loss late."""

STRIKES = 3
"""Hosts in one place that are lost in a row before they have joined, after which Ray is not asked again."""

SAID_SECONDS = 5.0
"""What several hosts say within this time is shown once."""


@dataclass
class _Bundle:
    """A place in the placement group, and the hosts in it that were lost in a row before they had joined.

    Attributes:
        strikes: those that were there.
        failures: with those that never came: Ray notices late that a node is gone.
        due: when a host is asked for (monotonic seconds); None = one has been asked for, or none is wanted.
    """

    strikes: int = 0
    failures: int = 0
    due: float | None = 0.0


@dataclass
class _Host:
    """A host as the driver sees it.

    Attributes:
        number: which host, counted through all that ever were.
        bundle: its place in the placement group.
        actor: Ray's handle.
        calls: what the actor was asked: "name", then "run" and "hear".
        name: how people know it, once it is there.
        has_joined: whether it trains.
        ended: how it ended, and when it said so (monotonic seconds).
    """

    number: int
    bundle: _Bundle
    actor: Any
    calls: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    has_joined: bool = False
    ended: Ended | None = None
    ended_at: float = 0.0


@dataclass
class Driver:
    """Drives one run.

    Args:
        ray: the package, connected.
        group: the placement group, a bundle for each host.
        cpus: the CPUs of each host.
        order: what each host is to do; its place is filled in here.
        settings: how.
        shown: where progress is shown.
        interrupts: whether the run is asked to stop.
    """

    ray: Any
    group: Any
    cpus: int
    order: Order
    settings: Settings
    shown: Display
    interrupts: Interrupts

    def __post_init__(self) -> None:
        self._bundles = [_Bundle() for _ in range(self.order.place.hosts)]
        self._arrived = 0
        self._hosts: list[_Host] = []
        self._said: dict[str, float] = {}
        self._stopping: float | None = None
        self._has_joined = self._has_started = False

    def run(self) -> None:
        """Drive to the end.

        Raises:
            UsageError, JobError: the run failed.
        """
        place, timeout = self.order.place, self.settings.host_timeout
        store, client = (Store(place, place.address, serve, timeout) for serve in (True, False))
        term = exchange(store, None, Term(1, 1, place.name, timeout))
        coordinator = Coordinator(client, term, place.hosts, timeout, self.settings.min_hosts)
        try:
            while not self._is_over():
                self._ask_where_due()
                self._look()
                self._replace(coordinator.left_out)
            self._conclude()
        except OSError as error:  # Ray's: the raylet of this node is gone
            raise JobError(
                f"the driver has lost Ray ({error}), and hosts end with their driver. Start Ray here again, and resume "
                "the run (--resume) from its last checkpoint."
            ) from error
        finally:
            for host in self._hosts:
                self._kill(host)
            coordinator.close(0.5)
            del store

    # -- hosts ---------------------------------------------------------------------------------------------

    def _ask_where_due(self) -> None:
        for index, bundle in enumerate(self._bundles):
            if bundle.due is not None and time.monotonic() >= bundle.due and self._stopping is None:
                bundle.due = None
                self._ask(index, bundle)

    def _ask(self, index: int, bundle: _Bundle) -> None:
        """Ask for a host; it comes when Ray has a node for it."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=index)
        actor = self.ray.remote(RayHost).options(
            name=f"{self.order.place.prefix}/host-{self._arrived}", num_cpus=self.cpus, max_concurrency=CALLS,
            max_restarts=0, scheduling_strategy=strategy,
        ).remote()  # fmt: skip
        self._hosts.append(_Host(self._arrived, bundle, actor, {"name": actor.name.remote()}))
        self._arrived += 1

    def _kill(self, host: _Host) -> None:
        with suppress(Exception):  # it is dead, or Ray is
            self.ray.kill(host.actor)

    def _lost(self, host: _Host, why: str) -> None:
        """Go on without a host, and ask for another."""
        self._hosts.remove(host)
        self._kill(host)
        if self._stopping is not None or any(other.ended for other in self._hosts):
            return
        bundle = host.bundle
        if host.has_joined:
            bundle.strikes = bundle.failures = 0
        else:
            bundle.strikes += bool(host.name)
            bundle.failures += 1
        what = f"host {host.name or host.number} is lost ({why})"
        if bundle.strikes >= STRIKES:
            if not self._has_joined:
                raise JobError(f"{what}, {STRIKES} times in a row before the run began. See Ray's logs of its actors.")
            self.shown.message(f"{what}, {STRIKES} times in a row; the others go on without another one")
            return
        if host.name:
            self.shown.message(f"{what}; Ray is asked for another one")
        bundle.due = time.monotonic() + min(0.5 * 2**bundle.failures, MOST_PAUSE_SECONDS)

    def _replace(self, left_out: Set[int]) -> None:
        """Have others in place of hosts that the run has gone on without."""
        now = time.monotonic()
        for host in [*self._hosts]:
            if host.ended is None and host.number in left_out:  # one that hangs is alive to Ray
                self._lost(host, "the others did not hear of it")
            elif host.ended and host.ended.failure and now - host.ended_at > PATIENCE_SECONDS:
                self._lost(host, "the others go on without it")  # it failed alone: they would have been told

    # -- the loop ------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Hear what has come, for a moment."""
        calls = {call: (host, what) for host in self._hosts for what, call in host.calls.items()}
        ready = []
        if calls:
            ready, _ = self.ray.wait(list(calls), num_returns=len(calls), timeout=LOOK_SECONDS, fetch_local=False)
        else:
            time.sleep(LOOK_SECONDS)
        for call in ready:
            host, what = calls[call]
            if host in self._hosts:
                self._answered(host, what, call)
        if self.interrupts() and self._stopping is None:
            self.shown.message("stopping after the step at hand; another interrupt ends at once")
            self._stopping = time.monotonic()
            for host in self._hosts:
                host.actor.stop.remote()

    def _answered(self, host: _Host, what: str, call: Any) -> None:
        del host.calls[what]
        try:
            answer = self.ray.get(call)
        except self.ray.exceptions.RayTaskError:
            raise
        except self.ray.exceptions.RayError as error:
            self._lost(host, str(error).splitlines()[0].rstrip(". "))
            return
        if what == "name":
            self._begin(host, answer)
        elif what == "hear":
            self._show(host, answer)
            if "run" in host.calls:
                host.calls["hear"] = self._hear(host)
        else:
            ended, rest = answer
            self._show(host, rest)
            if ended.left and self._stopping is None:
                self._lost(host, "it was told to go")
            elif ended.by_itself or self._stopping is not None:
                host.ended, host.ended_at = ended, time.monotonic()
            else:
                self._lost(host, f"its process ended with {ended.status}")

    def _begin(self, host: _Host, name: str) -> None:
        """A host is there: have it take part."""
        host.name = f"{name}-{host.number}"
        order = replace(self.order, place=replace(self.order.place, host=host.number, name=host.name))
        host.calls = {"run": host.actor.run.remote(order), "hear": self._hear(host)}
        if self._stopping is not None:
            host.actor.stop.remote()

    def _hear(self, host: _Host) -> Any:
        """Ask for what is new; thousands of these calls would bury the others in Ray's lists of tasks."""
        return host.actor.hear.options(enable_task_events=False).remote()

    def _is_over(self) -> bool:
        if self._stopping is not None and time.monotonic() - self._stopping > STOP_SECONDS:
            return True
        training = [host for host in self._hosts if host.has_joined]
        ended = [host for host in self._hosts if host.ended]
        if self._has_joined and not training:
            return True
        if not ended:
            return self._stopping is not None and not self._hosts
        done = [host.ended_at for host in ended if host.ended and not host.ended.failure]
        if done and time.monotonic() - min(done) > PATIENCE_SECONDS:
            return True
        return all(host.ended for host in training or [h for h in self._hosts if "run" in h.calls or h.ended])

    def _conclude(self) -> None:
        ended = [host.ended for host in sorted(self._hosts, key=lambda host: host.number) if host.ended]
        failures = [each.failure for each in ended if each.failure is not None]
        if not ended and self._stopping is None:
            raise JobError("every host of the run was lost. Resume it (--resume) from its last checkpoint.")
        if not ended or not failures or ended[0].failure is None:
            return
        failure = ended[0].failure
        if failure.usage:
            raise UsageError(failure.message)
        raise JobError(failure.message, failure.traceback)

    # -- what hosts say ------------------------------------------------------------------------------------

    def _show(self, host: _Host, news: list[News]) -> None:
        first = min((each.number for each in self._hosts if each.name), default=host.number)
        for verb, *arguments in news:
            if verb == "workers":
                host.has_joined = self._has_joined = True
            if verb == "message":
                self._message(host, *arguments)
            elif verb == "start":
                if not self._has_started:
                    self.shown.start(*arguments)
                self._has_started = True
            elif host.number == first:  # one speaks for all
                getattr(self.shown, verb)(*arguments)

    def _message(self, host: _Host, text: str) -> None:
        now = time.monotonic()
        if text.startswith(f"[{host.name} "):
            self.shown.message(text)
        elif now - self._said.get(text, -SAID_SECONDS) >= SAID_SECONDS:
            self._said[text] = now
            self.shown.message(f"[{host.name}] {text}")
