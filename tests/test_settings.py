"""Settings stand in one place: the command's options, `train`'s arguments and their help are made of it."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields

import click
import pytest

import unisono
from unisono.cli import commands
from unisono.errors import UsageError
from unisono.settings import Ray, Settings

NAMES = {each.name for each in fields(Settings)}
MADE_BY_THE_COMMAND = {"on", "name", "arguments", "live"}


@pytest.mark.parametrize("name", ["train", "start"])
def test_a_call_takes_all_settings_by_name_and_says_what_they_are(name: str) -> None:
    call = getattr(unisono, name)
    job, *settings = inspect.signature(call).parameters.values()
    assert job.name == "job"
    assert {each.name: each.default for each in settings} == {each.name: each.default for each in fields(Settings)}
    assert {each.kind for each in settings} == {inspect.Parameter.KEYWORD_ONLY}
    assert all(f"{each.name}: {each.metadata['help']}" in call.__doc__ for each in fields(Settings))


def test_the_command_has_an_option_for_each_setting() -> None:
    options = {each.name: each for each in commands.commands["train"].params if isinstance(each, click.Option)}
    for each in (*fields(Settings), *fields(Ray)):
        assert each.default is not MISSING
        if each.name not in MADE_BY_THE_COMMAND:
            assert (options[each.name].help, options[each.name].default) == (each.metadata["help"], each.default)


def test_an_argument_that_is_none_is_an_error() -> None:
    with pytest.raises(TypeError, match="wrokers"):
        unisono.train(object(), wrokers=2)  # type: ignore[call-arg,type-var]


ELSEWHERE = {
    "debug": True, "on": Ray(), "interface": "lo", "ports": "4000-4010", "host_timeout": 20, "data_host": 0,
    "store": "node0:4000", "min_hosts": 2, "on_signal": "stop",
}  # fmt: skip


@pytest.mark.parametrize("name", ELSEWHERE)
def test_start_refuses_what_is_not_in_the_background_here(name: str) -> None:
    with pytest.raises(
        UsageError, match=rf"start trains by processes of this host alone; received {name}=.*unisono\.train"
    ):
        unisono.start(object(), **{name: ELSEWHERE[name]})  # type: ignore[arg-type,type-var]
