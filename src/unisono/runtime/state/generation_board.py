"""Where generations, the words of replicas and the copies of their state stand for every process of a host."""

from __future__ import annotations

from unisono.frameworks.protocol import Array
from unisono.memory.segment import Segment
from unisono.memory.words import Words, fence
from unisono.runtime.rules.generations import Generation, ReplicaWords
from unisono.runtime.state.control import Control
from unisono.runtime.state.host_state import HostState
from unisono.runtime.state.layout import MEMBERS, SECOND
from unisono.runtime.state.model_state import ModelState


class _Second:
    """A segment in which the second copy's areas stand in the places of the first one's."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment

    def __getitem__(self, name: str) -> Array:
        second = SECOND + name
        return self._segment[second if second in self._segment.layout.areas else name]


class GenerationBoard:
    """The present generation, all replicas' words, and the host's two copies.

    Args:
        state: the host's.
        spin_seconds: how long waits look before they sleep.
    """

    def __init__(self, state: HostState, spin_seconds: float = 0.0) -> None:
        segment = state.segment
        self._segment, self._control = segment, state.control
        self._areas = [memoryview(area).cast("B").cast("q") for area in segment["generations"]]
        self.held, self.headed, self.unsound, self.rested = (
            Words(segment, name, spin_seconds) for name in ReplicaWords._fields
        )
        self._copied = Words(segment, "copies")
        self.copies: tuple[ModelState, ModelState] = (state, ModelState(state.layout, _Second(segment)))  # type: ignore[arg-type]

    def begin(self, round: int) -> None:
        """The first copy is the state that the next round begins with; nobody has a replica."""
        self._copied.put(0, round + 1)
        self._copied.put(1, 0)
        self._control.publish(Control.COPIED, round + 1)

    def write(self, generation: Generation, store: tuple[int, int]) -> None:
        """Leave a generation for everyone: first nothing, then its content, then its number.

        Args:
            generation: it.
            store: the process and the file in it through which its members find each other.
        """
        area, words = self._areas[generation.number & 1], [*generation.to_words(), *store]
        area[0] = 0
        fence()
        for index, word in enumerate(words[1:], 1):
            area[index] = word
        fence()
        area[0] = words[0]
        self._control.publish(Control.GENERATION, generation.number)

    def read(self) -> tuple[Generation, str] | None:
        """The present generation and the path of its store; None = there is none that can be read now. Its members see
        it whole: the next one comes only after they are at rest."""
        number = self._control.get(Control.GENERATION)
        if not number:
            return None
        area = self._areas[number & 1]
        words = area.tolist()
        fence()
        if area[0] != number or words[0] != number:  # others follow each other, which is no concern of who reads this
            return None
        generation = Generation.from_words(words)
        process, file = words[5 + 2 * len(generation.members) + 1 :][:2]
        return generation, f"/proc/{process}/fd/{file}"

    def words(self, member: int) -> ReplicaWords:
        """A member's words."""
        at = member % MEMBERS
        return ReplicaWords(self.held.get(at), self.headed.get(at), self.unsound.get(at), self.rested.get(at))

    def forget(self, member: int) -> None:
        """A member is about to begin: the words are its own now."""
        for words in (self.held, self.headed, self.unsound, self.rested):
            words.put(member % MEMBERS, 0)

    def copied(self) -> tuple[int, int]:
        """The words of the two copies."""
        return self._copied.get(0), self._copied.get(1)

    def newest(self) -> tuple[ModelState, int]:
        """The newest whole copy, and the rounds done in it."""
        copied = self.copied()
        index = copied.index(max(copied))
        return self.copies[index], copied[index] - 1

    def begin_copy(self, index: int) -> ModelState:
        """This one is about to be written: it is not whole."""
        self._copied.put(index, 0)
        fence()
        return self.copies[index]

    def end_copy(self, index: int, rounds: int) -> None:
        """It is whole, and the state after so many rounds."""
        self._copied.publish(index, rounds + 1)
