"""Times as people write them for batch systems: 90s, 10m, 11h50m."""

from __future__ import annotations

import re

from unisono.errors import UsageError
from unisono.values.text import excerpt

_FORM = re.compile(r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")

MOST_DAYS = 3650


def seconds_of(text: object, what: str) -> float:
    """Parse a duration.

    Args:
        text: days, hours, minutes and seconds with their letters.
        what: the option, for the error.

    Raises:
        UsageError: not a duration.

    >>> seconds_of("11h50m", "--max-time"), seconds_of("90s", "--max-time")
    (42600.0, 90.0)
    """
    match = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
    parts = [int(part or 0) for part in match.groups()] if match else []
    total = sum(part * size for part, size in zip(parts, (86400, 3600, 60, 1), strict=True)) if parts else 0
    if not 0 < total <= MOST_DAYS * 86400:
        raise UsageError(
            f"{what} takes a time such as 90s, 10m or 11h50m, of at most {MOST_DAYS} days; received {excerpt(text)}."
        )
    return float(total)
