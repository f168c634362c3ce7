"""How a command ends: what is said of an error, and the exit status."""

from __future__ import annotations

import signal
from collections.abc import Callable

import click

from unisono.commands.last_word import repeated
from unisono.errors import JobError, UnisonoError
from unisono.errors.exits import exit_told, exits_told
from unisono.observe.stream import complain, fill_closed
from unisono.runtime.processes.signals import handled, hear_of_children
from unisono.values.text import printable


class _Ended(BaseException):
    """A signal came while nothing was trained."""

    def __init__(self, number: int) -> None:
        self.number = number


def _end(number: int) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else _Ended(number)


def status_of(call: Callable[[], int]) -> int:
    """The exit status of a command: 0 done, 1 the job failed, 2 wrong use, 128 + signal interrupted.

    Args:
        call: does what the command is to do, and returns its status.
    """
    fill_closed()
    hear_of_children()
    try:
        with exits_told(), handled(_end):
            return call()
    except click.ClickException as error:
        context = f"{error.ctx.get_usage()}\n" if isinstance(error, click.UsageError) and error.ctx else ""
        complain(f"{context}Error: {error.format_message()}")
        return 2
    except (click.Abort, KeyboardInterrupt) as error:
        if text := str(error.__cause__ or error):  # what was left in the middle
            complain(f"unisono: {printable(text)}")
        return 130
    except UnisonoError as error:
        message = error.message if isinstance(error, JobError) else str(error)
        traceback = f"\n\n{error.traceback}" if isinstance(error, JobError) and error.traceback else ""
        complain(f"unisono: {printable(message + traceback)}")
        repeated(f"unisono: {printable(message)}")
        return error.exit_status
    except _Ended as error:
        return 128 + error.number
    except SystemExit as request:
        complain(f"unisono: {printable(exit_told(request))}")
        return 1
