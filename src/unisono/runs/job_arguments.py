"""key=value …: the arguments of a job file's function."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from unisono.errors import UsageError
from unisono.values.typed_json import arguments_read


def defaults_of(function: Any) -> dict[str, Any]:
    """A job function's arguments with their defaults."""
    parameters = inspect.signature(function).parameters
    missing = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    if missing:
        raise UsageError(f"a job function's arguments must have defaults; {missing[0]!r} has none.")
    return {name: parameter.default for name, parameter in parameters.items()}


def parse(function: Any, assignments: Sequence[str], kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All arguments of a job function: its defaults, with the assignments parsed to their types.

    Args:
        function: the job's.
        assignments: key=value.
        kept: see `JobFile`.

    Raises:
        UsageError: an argument that it does not take, or a value of the wrong kind.

    >>> parse(lambda lr=0.1, epochs=5, wide=False: None, ["lr=3e-4", "wide=true"], {"lr": 1.0, "epochs": 3})
    {'lr': 0.0003, 'epochs': 3, 'wide': True}
    """
    defaults = defaults_of(function)
    values = {**defaults, **arguments_read(kept or {}, defaults)}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or key not in values:
            raise UsageError(
                f"arguments of the job are key=value with key one of {', '.join(values) or '(none)'}; received "
                f"{assignment!r}."
            )
        values[key] = _value(key, text, defaults[key])
    return values


_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _kind(default: Any) -> str:
    """What an argument takes, as a person says it."""
    if isinstance(default, Enum):
        return f"one of {', '.join(type(default).__members__)}"
    return (
        "true or false" if isinstance(default, bool) else "a whole number" if isinstance(default, int) else "a number"
    )


def _value(key: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, Enum):
            return type(default)[text]
        if isinstance(default, bool):
            return _TRUTH[text.lower()]
        if isinstance(default, int | float | str):
            return type(default)(text)
        if isinstance(default, Path):
            return Path(text)
    except (ValueError, KeyError) as error:
        raise UsageError(f"{key} takes {_kind(default)} (as its default {default!r}); received {text!r}.") from error
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # what is no literal is text
        return text
