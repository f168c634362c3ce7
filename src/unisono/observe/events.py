"""TensorBoard's event files, written without its packages, which import a whole framework.

A file is a row of records (TFRecord): length, its checksum, data, their checksum. The data are one `Event` message in
the wire format of protocol buffers; the fields used here are those of TensorBoard's `event.proto` and `summary.proto`.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from unisono.observe.appending import append

_POLYNOMIAL = 0x82F63B78  # CRC-32C, bits reversed
_START = 1  # SessionLog.START

_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_REMAINDERS = tuple(_remainder(byte) for byte in range(256))


def checksum(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord files have it.

    >>> hex(checksum(b"123456789"))
    '0xc78ab0e5'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _REMAINDERS[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    """A number, seven bits a byte, the low ones first.

    >>> _varint(300).hex()
    'ac02'
    """
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _field(number: int, kind: int, data: bytes) -> bytes:
    length = _varint(len(data)) if kind == _COUNTED else b""
    return _varint(number << 3 | kind) + length + data


class EventFile:
    """A file of events; every method raises OSError where the disk does not take them.

    Args:
        folder: where it is made.
    """

    def __init__(self, folder: Path) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab", buffering=0)
        self._add(_field(3, _COUNTED, b"brain.Event:2"))

    def scalars(self, step: int, values: Iterable[tuple[str, float]]) -> None:
        """An event of numbers with their names.

        Args:
            step: of training.
            values: (name, number).
        """
        summary = b"".join(
            _field(1, _COUNTED, _field(1, _COUNTED, name.encode()) + _field(2, _FOUR_BYTES, struct.pack("<f", value)))
            for name, value in values
        )
        self._add(_field(2, _VARINT, _varint(step)) + _field(5, _COUNTED, summary))

    def restart(self, step: int) -> None:
        """Tell TensorBoard to forget what earlier files say of this step and later ones."""
        log = _field(1, _VARINT, _varint(_START))
        self._add(_field(2, _VARINT, _varint(step)) + _field(7, _COUNTED, log))

    def _add(self, event: bytes) -> None:
        data = _field(1, _EIGHT_BYTES, struct.pack("<d", time.time())) + event
        length = struct.pack("<Q", len(data))
        head, tail = length + struct.pack("<I", checksum(length)), struct.pack("<I", checksum(data))
        append(self._file, head + data + tail)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
