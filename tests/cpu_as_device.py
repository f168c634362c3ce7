"""What a run asks of this host where workers own a device, with the CPU as one: there need be no GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unisono.runs.request import request_of as asked_of
from unisono.runtime.rules.request import Request
from unisono.settings import AUTO, Settings


def request_of(settings: Settings, **more: Any) -> Request:
    """See there: what it makes of "cuda"."""
    request = asked_of(replace(settings, device=AUTO), **more)
    return replace(request, device="cpu") if settings.device == "cuda" else request
