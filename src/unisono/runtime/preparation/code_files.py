"""The files of a person's own code in this process, with digests: hosts compare them, and a run keeps them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from unisono.errors import UsageError
from unisono.errors.traces import is_users_file


class CodeFile(NamedTuple):
    """Where a file lies here, and a short digest of what it held when it was read."""

    path: str
    digest: str


def code_files() -> dict[str, CodeFile]:
    """The Python files of all modules here that are neither Python's, nor installed, nor Unisono's.

    Returns:
        By a name that does not depend on where they lie: "job.py", "pkg/layers.py".
    """
    found = {}
    for name, module in sorted(sys.modules.items()):
        known = vars(module) if isinstance(module, ModuleType) else {}
        path = known.get("__file__")
        if isinstance(path, str) and path.endswith(".py") and is_users_file(path):
            with suppress(OSError, AttributeError):  # what cannot be read any more is not compared
                data = known["__loader__"].get_data(path) if known.get("__loader__") else Path(path).read_bytes()
                found[_named(name, path)] = CodeFile(path, blake2b(data, digest_size=6).hexdigest())
    return found


def _named(module: str, path: str) -> str:
    """A module's file as people on all hosts know it.

    >>> _named("pkg.layers", "/a/pkg/layers.py"), _named("pkg", "/b/pkg/__init__.py"), _named("__main__", "/b/a.py")
    ('pkg/layers.py', 'pkg/__init__.py', 'a.py')
    """
    file = Path(path).name
    if module == "__main__":
        return file
    folder = module.replace(".", "/")
    return f"{folder}/{file}" if file == "__init__.py" else f"{folder}.py"


def check_code(before: Mapping[str, CodeFile], now: Mapping[str, CodeFile]) -> None:
    """Hold what a process has read to what another one of the same run has.

    Raises:
        UsageError: it is not the same.
    """
    for name, file in now.items():
        if before.get(name, file).digest != file.digest:
            raise UsageError(
                "a job's code must stay as it is while it trains, where a process that takes another one's place reads "
                f"it anew; {name} was {before[name].digest}, and is {file.digest} now. Train from a copy that nobody "
                "edits."
            )


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    """Files that are others than they were: name → [digest before, digest now].

    Some that are new, or some that are missing, are no change, for what is imported may depend on the process; where
    there are both, one may have got another name.

    >>> changed_files({"job.py": "a", "utils.py": "b"}, {"job.py": "c", "utils.py": "b", "more.py": "d"})
    {'job.py': ['a', 'c']}
    >>> changed_files({"job.py": "a", "utils.py": "b"}, {"new.py": "c", "utils.py": "b"})
    {'job.py': ['a', 'not there'], 'new.py': ['not there', 'c']}
    """
    renamed = bool(before.keys() - now.keys() and now.keys() - before.keys())
    names = [name for name in {**before, **now} if renamed or (name in before and name in now)]
    pairs = {name: [before.get(name, "not there"), now.get(name, "not there")] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
