"""Calls computed by workers: who computes what, and what happens when one of them dies."""

from __future__ import annotations

import select
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unisono.errors import JobError, UnisonoError, UsageError
from unisono.errors.failure import MEMORY_WAYS_OUT
from unisono.machine.devices import out_of_memory_kills
from unisono.runtime.processes.deaths import Death
from unisono.runtime.rules import crew as rules
from unisono.runtime.rules.crew import STRIKES, Fork
from unisono.runtime.rules.plan import owner
from unisono.runtime.supervisor.delays import LOOK_SECONDS
from unisono.scripts.acts import Acts
from unisono.scripts.pytorch.bell import Bell
from unisono.scripts.pytorch.hangs import Hangs
from unisono.scripts.pytorch.messages import written_message
from unisono.scripts.pytorch.process import Process
from unisono.scripts.pytorch.session import Session
from unisono.scripts.pytorch.spaces import Ref, Space
from unisono.scripts.turns import interrupt

_WAY_OUT = "Look at it with workers=0, which computes in the script and gives the same bits."

Found = Callable[[int], Space]
Take = Callable[[int, Any, Found], None]


@dataclass
class Work:
    """What one worker is asked for.

    Attributes:
        first: its first microbatch.
        message: (worker's number) → (verb, arguments); made when it is sent.
    """

    first: int
    message: Callable[[int], tuple[str, tuple[Any, ...]]]


@dataclass
class Member:
    """A worker as the script sees it.

    Attributes:
        process: it.
        known: the spaces that it has.
        outbox: where it leaves tensors, by number.
        last: the last act that it has been asked about.
    """

    process: Process
    known: set[int] = field(default_factory=set)
    outbox: dict[int, Space] = field(default_factory=dict)
    last: int | None = None


class Crew:
    """The workers of one `unisono.parallel`.

    Args:
        session: forks them.
        workers: how many.
        payload, parameters, spaces: what each takes first, and the spaces that the parameters lie in.
    """

    def __init__(
        self, session: Session, workers: int, payload: bytes, parameters: Sequence[Ref], spaces: Sequence[Space]
    ) -> None:  # fmt: skip
        self._session, self._rules = session, rules.Crew(workers)
        self._bell = Bell(Space.create(session.numbered(), 1))
        self._first = ("open", (list(sys.path), str(Path.cwd()), payload, list(parameters), self._bell.space.number))
        self._first_spaces = [*spaces, self._bell.space]
        self._leases = [space.lent() for space in spaces]  # for workers to come, also where no parameter has an element
        self.members: dict[int, Member] = {}
        self._acts, self._hangs, self._memory_kills = Acts(), Hangs(), out_of_memory_kills()
        self._carry_out(self._rules.begin())

    @property
    def seats(self) -> list[int]:
        """Who has each slot."""
        return [self.owner(member) for member in self._rules.seats]

    def owner(self, member: int) -> int:
        """Who does what was a member's: it, or its heir."""
        return owner(member, self._rules.heirs.get)

    def resize(self, workers: int) -> None:
        """Have another number of workers; at least 1."""
        self._carry_out(self._rules.resize(workers))
        for member in sorted(self._rules.retiring):
            self._rules.left(member)
            self._acts.left(member)
            self._session.end(self.members.pop(member).process)

    def close(self) -> None:
        """End them."""
        for member in self.members.values():
            self._session.end(member.process)
        self.members.clear()
        self._leases.clear()
        self._bell.space.close()

    def _carry_out(self, decisions: Sequence[rules.Decision]) -> None:
        waiting = list(decisions)
        while waiting:
            decision = waiting.pop(0)
            if isinstance(decision, Fork):
                member = self.members[decision.member] = Member(self._session.fork())
                self._send(member, None, self._first, self._first_spaces)
                waiting += self._rules.joined(decision.member)

    # -- asking --------------------------------------------------------------------------------------------

    def tell(self, verb: str, *arguments: Any) -> None:
        """Say something to all, who hear of it before they are asked for anything again; nobody answers."""
        for member in self.members.values():
            self._send(member, None, (verb, arguments), ())

    def act(self, works: Sequence[Work], owners: Sequence[int], spaces: Sequence[Space], take: Take) -> None:
        """Have works done, whoever dies meanwhile.

        Args:
            works: them.
            owners: whose each is.
            spaces: what messages refer to.
            take: called with (member, answer, that member's spaces) as each is done.

        Raises:
            JobError, UsageError: the model raised, or works kill their workers again and again.
        """
        self._acts.begin(owners)
        self._hangs.judge.begin()
        failures: dict[int, UnisonoError] = {}
        try:
            while not self._acts.is_over:
                self._hand_out(works, spaces)
                for number in self._ready():
                    if number not in self.members or (answer := self._answer_of(number, works)) is None:
                        continue
                    act, told = answer
                    kind, *rest = told if told[0] in ("refused", "failed") else ("done", told)
                    done = self._acts.answered(number, act, failed=kind != "done")
                    if done is None:
                        continue
                    if kind == "done":
                        take(number, told, self.members[number].outbox.__getitem__)
                    else:
                        failures[done] = _error(kind, rest)
        finally:
            self._acts.end()
        if self._acts.failed is not None:
            raise failures[self._acts.failed]

    def _hand_out(self, works: Sequence[Work], spaces: Sequence[Space]) -> None:
        due = self._acts.due(list(self.members))
        for number, work in due:
            member = self.members[number]
            if member.last != self._acts.number:
                member.last = self._acts.number
                for place in sorted(member.outbox)[:-1]:  # it keeps its last alone
                    member.outbox.pop(place).close()
            self._send(member, self._acts.number, works[work].message(number), spaces)
        if due:
            self._bell.ring()

    def _send(
        self, member: Member, act: int | None, message: tuple[str, tuple[Any, ...]], spaces: Sequence[Space]
    ) -> None:
        new = [space for space in spaces if space.number not in member.known]
        data = written_message((message[0], act, [(space.number, space.size) for space in new], message[1]))
        try:
            member.process.channel.send(data, [space.file for space in new])
        except ConnectionError:  # it is dead: seen when its answer is waited for
            return
        except BlockingIOError:  # it has been asked for nothing for long, and takes nothing
            member.process.send(signal.SIGKILL)
            return
        member.known |= {space.number for space in new}

    def _ready(self) -> list[int]:
        """Members that have answered or died; those that hang will have."""
        poll, numbers = select.poll(), {}
        for number, member in self.members.items():
            for file in (member.process.channel.socket.fileno(), member.process.pidfd):
                poll.register(file, select.POLLIN)
                numbers[file] = number
        ready = sorted({numbers[file] for file, _ in poll.poll(LOOK_SECONDS * 1000)})
        interrupt()
        if elapsed := self._hangs.judge.due():
            for number, member in self.members.items():
                if number not in ready and number in self._acts.asked:
                    asked = self._acts.asked[number], self._acts.at(number)
                    self._hangs.look(f"worker {number}", member.process, asked, elapsed)
        return ready

    def _answer_of(self, number: int, works: Sequence[Work]) -> tuple[int, Any] | None:
        """The act that a member answers to, and what; None: it is dead."""
        member = self.members[number]
        try:
            (act, new, answer), files = member.process.channel.receive()
        except (EOFError, ConnectionError):
            self._died(number, works)
            return None
        for (place, size), file in zip(new, files, strict=True):
            member.outbox[place] = Space(place, file, size)
        return act, answer

    def _died(self, number: int, works: Sequence[Work]) -> None:
        member = self.members.pop(number)
        for space in member.outbox.values():
            space.close()
        hung = self._hangs.is_to_blame(member.process)
        self._hangs.forget(member.process)
        status = self._session.end(member.process)
        death = Death(f"worker {number}", status, hung, self._lacked_memory(status))
        at = self._acts.at(number)
        work = rules.Work(self._acts.number, -1 if at is None else works[at].first)
        is_given_up = death.own_fault and self._rules.blame(work)
        self._carry_out(self._rules.died(number))
        self._acts.died(number, self.owner(number))
        if is_given_up:  # the next call has its workers
            raise JobError(_given_up(death, work))

    def _lacked_memory(self, status: int) -> bool:
        """Whether a worker that has just ended so was killed by the kernel because memory ran out."""
        before, self._memory_kills = self._memory_kills, out_of_memory_kills()
        return status == -signal.SIGKILL and self._memory_kills > before


def _given_up(death: Death, work: rules.Work) -> str:
    what = f"{death.name} made no progress and was ended" if death.hung else death.text
    where = "before it could work" if work.microbatch < 0 else f"at microbatch {work.microbatch} of the same call"
    return f"{what}, {STRIKES} times in a row {where}. {MEMORY_WAYS_OUT if death.memory else _WAY_OUT}"


def _error(kind: str, told: Sequence[str]) -> UnisonoError:
    return UsageError(told[0]) if kind == "refused" else JobError(told[0], told[1])
