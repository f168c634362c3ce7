"""Keys for randomness: numbers derived from names, never from a rank or from time."""

from __future__ import annotations

from hashlib import blake2b


def key(*parts: int | str) -> int:
    """A number that depends on the parts and their order alone.

    Args:
        parts: e.g. (seed, "sample", epoch, index).

    Returns:
        A number of 63 bits.

    >>> key(0, "order", 1), key(0, "order", 2) == key(0, "order", 1)
    (3107119615989845548, False)
    """
    text = "\0".join(f"{type(part).__name__[0]}{part}" for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
