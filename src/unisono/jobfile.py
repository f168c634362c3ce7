"""FILE.py[:NAME] key=value …: from a job file to a job."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from unisono.errors import JobError, UnisonoError, UsageError
from unisono.frameworks.registry import settle_environment
from unisono.job import Job
from unisono.usertrace import user_traceback


@dataclass(frozen=True)
class LoadedJob:
    """A job, the stem of its file, and the arguments that made it."""

    job: Job
    name: str
    arguments: Mapping[str, Any]


def load(spec: str, assignments: Sequence[str] = ()) -> LoadedJob:
    """Run a job file once and take its job.

    Args:
        spec: "FILE.py" or "FILE.py:NAME"; NAME defaults to "job".
        assignments: "key=value" arguments of the function NAME.

    Raises:
        UsageError: no such file or name, not Python, an unknown key, a value of the wrong kind.
        JobError: the file itself failed; holds its traceback.
    """
    file, _, name = spec.partition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"a job is a Python file; {file!r} does not exist. Write unisono train FILE.py[:NAME].")
    settle_environment()
    module = _execute(path)
    made = getattr(module, name or "job", None)
    if made is None:
        names = [n for n, value in vars(module).items() if isinstance(value, Job) or n.startswith("job")]
        raise UsageError(
            f"{file} must define {name or 'job'!r}, a Job or a function that returns one; it defines "
            f"{', '.join(names) if names else 'no such thing'}. Choose one with {file}:NAME."
        )
    if isinstance(made, Job):
        if assignments:
            raise UsageError(
                f"{spec} is a Job, which takes no key=value; received {assignments[0]!r}. Make it a function."
            )
        return LoadedJob(made, path.stem, {})
    if not callable(made):
        raise UsageError(f"{spec} must be a Job or a function that returns one; it is {type(made).__name__}.")
    arguments = parse(made, assignments)
    job = _user(lambda: made(**arguments), f"{spec} failed")
    if not isinstance(job, Job):
        raise UsageError(f"{spec} must return a Job; it returned {type(job).__name__}.")
    return LoadedJob(job, path.stem, arguments)


def _execute(path: Path) -> ModuleType:
    source = path.read_bytes()
    try:
        compile(source, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"a job is a Python file; {path} is not: {error}.") from error
    sys.path.insert(0, str(path.parent.resolve()))
    specification = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    _user(lambda: specification.loader.exec_module(module), f"{path} failed while it was read")
    cloudpickle.register_pickle_by_value(module)
    return module


def _user(call: Any, what: str) -> Any:
    try:
        return call()
    except UnisonoError:
        raise
    except Exception as error:
        raise JobError(f"{what}: {type(error).__name__}", user_traceback(error)) from error


def parse(function: Any, assignments: Sequence[str]) -> dict[str, Any]:
    """All arguments of a job function: its defaults, with the assignments parsed to their types.

    >>> parse(lambda lr=0.1, epochs=5, wide=False: None, ["lr=3e-4", "wide=true"])
    {'lr': 0.0003, 'epochs': 5, 'wide': True}
    """
    parameters = inspect.signature(function).parameters
    missing = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    if missing:
        raise UsageError(f"a job function's arguments must have defaults; {missing[0]!r} has none.")
    values = {name: parameter.default for name, parameter in parameters.items()}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or key not in values:
            raise UsageError(
                f"arguments of the job are key=value with key one of {', '.join(values) or '(none)'}; received "
                f"{assignment!r}."
            )
        values[key] = _value(key, text, parameters[key].default)
    return values


_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _value(key: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return _TRUTH[text.lower()]
        if isinstance(default, int | float | str):
            return type(default)(text)
        if isinstance(default, Path):
            return Path(text)
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"{key} takes a {type(default).__name__} (as its default {default!r}); received {text!r}."
        ) from error
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
