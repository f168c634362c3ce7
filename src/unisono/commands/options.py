"""The command's options, made of the settings that they give, and what options can be besides texts and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from unisono.errors import UsageError
from unisono.partition.layout import Layout
from unisono.settings import Ray, Settings
from unisono.values import bounds

C = TypeVar("C", bound=Callable[..., Any])

_KINDS = {"int": int, "float": float, "bool": bool}
_NOT_OPTIONS = ("on", "name", "arguments", "live")
"""Settings that the command makes of something else."""


def options(*names: str) -> Callable[[C], C]:
    """Give a command the options of these settings; without names those of all, and of a Ray cluster."""
    wanted = [each for each in fields(Settings) if each.name in names or not (names or each.name in _NOT_OPTIONS)]

    def decorate(command: C) -> C:
        for each in reversed([*wanted, *(() if names else fields(Ray))]):
            command = _option(each)(command)
        return command

    return decorate


def _option(each: Field[Any]) -> Callable[[C], C]:
    kind = _KINDS.get(str(each.type).split()[0], str)
    choices = each.metadata["choices"]
    return click.option(
        f"--{each.name.replace('_', '-')}", type=click.Choice(choices) if choices else kind, is_flag=kind is bool,
        default=each.default, show_default=kind is not bool and each.default is not None,
        metavar=each.metadata["metavar"], help=each.metadata["help"],
    )  # fmt: skip


class _Folder(click.ParamType):  # type: ignore[type-arg]
    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return bounds.folder("a folder's path", value)


FOLDER = _Folder()
"""A folder that has a name: an empty one, of a variable that is not set, would be this one."""


class SeveralLayouts(click.Command):
    """`--layouts data=1 pipeline=2`: all that follows and is a layout belongs to the option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--layouts" in args:
            first = args.index("--layouts") + 1
            last = first
            while last < len(args) and _is_layout(args[last]):
                last += 1
            args = [*args[:first], *([" ".join(args[first:last])] if last > first else []), *args[last:]]
        return super().parse_args(ctx, args)


def _is_layout(text: str) -> bool:
    try:
        Layout.parse(text)
    except UsageError:
        return False
    return True
