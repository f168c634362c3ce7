"""A person's script, run as `python script.py` would, as the only rank of torch.distributed."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import click

from unisono.errors import UsageError
from unisono.scripts.ranks import launched
from unisono.values.text import excerpt

ON_PATH = Path(__file__).parent / "on_path"
"""What every Python finds that the script starts: `sitecustomize`, and what stands for other libraries."""

_ONE_RANK = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
_OPTIONS = ("--workers", "--microbatches")


def run(script: str, arguments: tuple[str, ...], workers: int | None, microbatches: int | None) -> NoReturn:
    """Become the script: this process goes on as `python script.py arguments`.

    Args:
        script: a file.
        arguments: the script's own.
        workers, microbatches: of parallel calls; None = as `unisono.parallel` has them.

    Raises:
        UsageError: there is no such file, or a launcher has started several of this.
    """
    if not Path(script).is_file():
        raise UsageError(f"unisono run takes a Python file; received {excerpt(script)}, which is none.")
    command = [sys.executable, script, *arguments]
    os.execve(sys.executable, command, environment(os.environ, platform.node(), workers, microbatches))


def environment(
    variables: Mapping[str, str], hostname: str, workers: int | None, microbatches: int | None
) -> dict[str, str]:
    """The variables that the script finds.

    Args:
        variables: this process's.
        hostname: what this machine calls itself.
        workers, microbatches: as `run` has them.

    Raises:
        UsageError: a launcher has started several of this.

    >>> found = environment({"PATH": "/bin"}, "here", 4, None)
    >>> found["WORLD_SIZE"], found["UNISONO_WORKERS"], "UNISONO_MICROBATCHES" in found, found["MASTER_ADDR"]
    ('1', '4', False, '127.0.0.1')
    """
    _refuse_other_ranks(variables, hostname)
    wanted = {"UNISONO_WORKERS": workers, "UNISONO_MICROBATCHES": microbatches}
    path = os.pathsep.join(filter(None, [str(ON_PATH), variables.get("PYTHONPATH")]))
    given = {name: str(value) for name, value in wanted.items() if value is not None}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    return {**meeting, **variables, **_ONE_RANK, **given, "PYTHONPATH": path}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _refuse_other_ranks(variables: Mapping[str, str], hostname: str) -> None:
    received = launched(variables, hostname)
    if received:
        raise UsageError(
            f"unisono run is started once, on one host; received what a launcher has set: {received}. Start it without "
            "one: unisono run script.py. (A Job trains on several hosts.)"
        )


class Script(click.Command):
    """Options stand before the script, or right behind it; what follows them, or --, is the script's own.

    >>> command = Script("run", params=[click.Option(["--workers"]), click.Argument(["script"]),
    ...                                 click.Argument(["arguments"], nargs=-1)])
    >>> for line in ("a.py --workers 4 --lr 1", "--workers 4 a.py --workers 8", "a.py -- --workers 8", "a.py x --help"):
    ...     print(sorted(command.make_context("run", line.split()).params.items()))
    [('arguments', ('--lr', '1')), ('script', 'a.py'), ('workers', '4')]
    [('arguments', ('--workers', '8')), ('script', 'a.py'), ('workers', '4')]
    [('arguments', ('--workers', '8')), ('script', 'a.py'), ('workers', None)]
    [('arguments', ('x', '--help')), ('script', 'a.py'), ('workers', None)]
    """

    allow_interspersed_args = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-"):
            end = 1
            while end < len(args) and args[end].partition("=")[0] in _OPTIONS:
                end += 1 if "=" in args[end] else 2
            args = [*args[1:end], "--", args[0], *args[end + (args[end : end + 1] == ["--"]) :]]
        return super().parse_args(ctx, args)
