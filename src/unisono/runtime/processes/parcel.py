"""A job as it travels from the process that made it: what its arrays span, once, in shared memory, and a skeleton.

Sizes are known before anything is copied: a first pass over the job counts. It also finds what all views of one memory
span together (see `unisono.memory.spans`).
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np

from unisono.memory.segment import ALIGNMENT, aligned
from unisono.memory.spans import Pieces, Span, View, Views, mapping_of, united, viewed


def _itself(array: Any) -> View | None:
    return None if array.dtype.hasobject or not array.size else (array, _same, ())


def _same(array: Any) -> Any:
    return array


_ARRAYS: Views = {np.ndarray: _itself, np.memmap: _itself}


class _Viewing(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler that asks `_reduced` about each array over memory."""

    def __init__(self, file: Any, views: Views, callback: Callable[[pickle.PickleBuffer], Any] | None) -> None:
        super().__init__(file, 5, callback)
        self._views = {**_ARRAYS, **views}

    def reducer_override(self, value: Any) -> Any:
        look = self._views.get(type(value))
        view = look(value) if look is not None else None
        return super().reducer_override(value) if view is None else self._reduced(*view)

    def _reduced(self, array: Any, rebuild: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        raise NotImplementedError


class Survey(_Viewing):
    """What values would take, were they pickled one after another; what was counted once counts no more.

    It keeps what it has seen, so that addresses stay what they were.
    """

    def __init__(self, views: Views) -> None:
        self.spans: list[Span] = []
        self._written = 0
        super().__init__(self, views, self._count)

    def write(self, data: Any) -> None:
        """As a file: count."""
        self._written += len(data)

    def _count(self, buffer: pickle.PickleBuffer) -> None:
        self._written += buffer.raw().nbytes

    def _reduced(self, array: Any, rebuild: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if mapping_of(array) is None:
            self.spans.append(Span.of(array))
        return tuple, ()

    def size(self, value: Any) -> int:
        """Bytes that a value adds."""
        before = self._total()
        self.dump(value)
        return self._total() - before

    def _total(self) -> int:
        self.spans = united(self.spans)
        return self._written + sum(min(span.held, span.stop - span.start) for span in self.spans)


class _Packer(_Viewing):
    def __init__(
        self, file: Any, views: Views, callback: Callable[[pickle.PickleBuffer], Any] | None, pieces: Pieces
    ) -> None:  # fmt: skip
        super().__init__(file, views, callback)
        self._pieces = pieces

    def _reduced(self, array: Any, rebuild: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return _rebuilt, (self._pieces.view(array), rebuild, arguments)


def _rebuilt(view: tuple[Any, ...], rebuild: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return rebuild(viewed(*view), *arguments)


@dataclass(frozen=True)
class Parcel:
    """A value that travels.

    Attributes:
        skeleton: all but its arrays' bytes.
        places: (offset, size) of each array's bytes in a file.
    """

    skeleton: bytes
    places: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(value: Any, survey: Survey, views: Views, file: int | None = None) -> Parcel:
        """Pack a value.

        Args:
            value: the value.
            survey: what has seen it.
            views: as the survey's.
            file: an empty one in memory, into which arrays' bytes go; None = they are part of the skeleton.
        """
        buffers: list[pickle.PickleBuffer] = []
        stream = io.BytesIO()
        callback = None if file is None else buffers.append
        packer = _Packer(stream, views, callback, Pieces(survey.spans))  # keeps what it has copied
        packer.dump(value)
        places, end = [], 0
        for buffer in buffers:
            raw = buffer.raw()
            address = np.frombuffer(raw, np.uint8).ctypes.data if raw.nbytes else 0
            start = aligned(end) + address % ALIGNMENT
            assert file is not None
            _write(file, raw, start)
            places.append((start, raw.nbytes))
            end = start + raw.nbytes
        return Parcel(stream.getvalue(), tuple(places))

    def open(self, file: int | None = None) -> Any:
        """The value again. Its arrays lie over a private mapping of the file: processes share pages that none writes.

        Args:
            file: where the arrays' bytes are.
        """
        size = max((start + size for start, size in self.places), default=0)
        if not size:
            return pickle.loads(self.skeleton, buffers=[b""] * len(self.places))
        assert file is not None
        mapped = memoryview(mmap.mmap(file, size, mmap.MAP_PRIVATE))
        return pickle.loads(self.skeleton, buffers=[mapped[start : start + size] for start, size in self.places])


def _write(file: int, raw: memoryview, at: int) -> None:
    while raw:
        written = os.pwrite(file, raw[: 1 << 30], at)
        raw, at = raw[written:], at + written
