"""Cores that a cut leaves idle."""

from __future__ import annotations

import os

import pytest

from unisono.scripts.said import say_once
from unisono.scripts.settings import settings_of


def test_cores_that_a_cut_leaves_idle_are_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    say_once.cache_clear()
    assert settings_of(None, 2, 0, 0, {}).workers == 2
    assert settings_of(1, None, 0, 0, {}).workers == 1
    assert not capsys.readouterr().err, "somebody has chosen"
    assert settings_of(None, None, 0, 0, {}).workers == settings_of(None, None, 0, 0, {}).workers == 8
    assert capsys.readouterr().err == (
        "unisono: 8 of 64 cores used; microbatches=64 uses all, and is another result.\n"
    )  # fmt: skip
