"""What a person is told while a script runs."""

from __future__ import annotations

import sys
from functools import cache


def say(text: str) -> None:
    """Tell a person something, beside what the script prints."""
    print(f"unisono: {text}", file=sys.stderr, flush=True)


say_once = cache(say)
"""The same; what has been said is not said again."""
