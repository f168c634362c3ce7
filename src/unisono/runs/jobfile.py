"""FILE.py[:NAME] key=value …: from a job file to a job."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any

from unisono.errors import JobError, UnisonoError, UsageError
from unisono.errors.exits import exit_told
from unisono.errors.traces import user_traceback
from unisono.frameworks.registry import families, hold_threads, named_beside, settle_environment
from unisono.job import Job
from unisono.partition.keys import key
from unisono.runs.job_arguments import defaults_of, parse
from unisono.runtime.preparation.code_files import CodeFile
from unisono.runtime.processes.seeding import seed_all, seeded
from unisono.runtime.processes.source import Recipe, Source
from unisono.values import bounds
from unisono.values.text import excerpt
from unisono.values.typed_json import arguments_written

MOST_BYTES = 16 << 20
"""Of a job file, which is code: what is larger is something else."""


def code_of(path: Path) -> bytes:
    """What a job file holds.

    Args:
        path: the file.

    Raises:
        UsageError: it is no file, or none that can be code.
    """
    try:
        if not path.exists():
            raise UsageError(f"a job is a Python file; '{path}' does not exist. Write unisono train FILE.py[:NAME].")
        if not path.is_file():  # reading a device or a pipe may never end
            raise UsageError(f"a job is a Python file; '{path}' is a folder or a device. Write unisono train FILE.py.")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UsageError(f"a job is a Python file of at most {MOST_BYTES >> 20} MiB; '{path}' has {size} bytes.")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"a job is a Python file that can be read; '{path}' cannot: {error}.") from error


@dataclass(frozen=True)
class JobFile(Source):
    """The job of a file, as the file was when this was made: who edits it while it trains changes no run.

    Attributes:
        spec: "FILE.py" or "FILE.py:NAME"; NAME defaults to "job".
        code: what the file holds.
        assignments: "key=value" arguments of the function NAME.
        fields: what replaces fields of the job.
        kept: arguments of an earlier run, as its run.json holds them; assignments replace them.
        imports: see `Source`; nothing is known before it is read.
    """

    spec: str
    code: bytes = field(repr=False)
    assignments: Sequence[str] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)
    imports: tuple[str, ...] = ()

    @staticmethod
    def of(
        spec: str, assignments: Sequence[str] = (), fields: Mapping[str, Any] | None = None,
        kept: Mapping[str, Any] | None = None,
    ) -> JobFile:  # fmt: skip
        """The job of a file.

        Args:
            spec, assignments, fields, kept: see the attributes.

        Raises:
            UsageError: there is no such file, or its name is another module's.
        """
        path = Path(spec.partition(":")[0])
        roots = {root for family in families() for root in family.roots}  # what a job needs, itself or by imports
        if path.stem in {*sys.stdlib_module_names, *roots, "numpy", "unisono"}:
            raise UsageError(
                f"a job file is a module, whose name must not hide another one's; received {path}, and everything that "
                f"imports {path.stem!r} would get the job. Rename it: {path.stem}_job.py."
            )
        return JobFile(spec, code_of(path), assignments, fields or {}, kept or {})

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.spec.partition(":")[0])

    def read(self) -> Recipe:
        """Run the file once, as Python would.

        Raises:
            UsageError: no such name, not Python, an unknown key, a value of the wrong kind.
            JobError: the file itself failed; holds its traceback.
        """
        path, name = self.path, self.spec.partition(":")[2] or "job"
        module = _execute(path, self.code, self._seed({}))
        made = getattr(module, name, None)
        if made is None:
            names = [n for n, value in vars(module).items() if isinstance(value, Job) or n.startswith("job")]
            raise UsageError(
                f"{path} must define {name!r}, a Job or a function that returns one; it defines "
                f"{', '.join(names) if names else 'no such thing'}. Choose one with {path}:NAME."
            )
        if isinstance(made, Job):
            if self.assignments or self.kept:
                given = next(iter((*self.assignments, *self.kept)))
                raise UsageError(
                    f"{self.spec} is a Job, which takes no key=value; received {given!r}. Make it a function."
                )
            return Recipe(partial(replace, made, **self.fields), made.model, {})
        if not callable(made):
            raise UsageError(f"{self.spec} must be a Job or a function that returns one; it is {type(made).__name__}.")
        arguments = parse(made, self.assignments, self.kept)
        return Recipe(partial(self._made, made, arguments), made, arguments_written(arguments, defaults_of(made)))

    def loaded(self, travels: bool = False, threads: int | None = None) -> LoadedJob:
        """Run the file in this process, and take its job.

        Args:
            travels: whether the job is then pickled for processes that do not run the file.
            threads: that this process will compute with; None = it will not.

        Raises:
            UsageError, JobError: see `read`.
        """
        recipe = self.read()
        if travels:
            import cloudpickle

            cloudpickle.register_pickle_by_value(sys.modules[self.path.stem])
        if threads is not None:
            hold_threads((family.package for family in named_beside(recipe.beside)), threads)
        return LoadedJob(recipe.make(), recipe.arguments)

    def _seed(self, arguments: Mapping[str, Any]) -> int:
        """What the file's code is seeded with, before its job says a seed.

        Args:
            arguments: the job function's, once they are known.
        """
        given = {**self.kept, **dict(part.split("=", 1) for part in self.assignments if "=" in part)}
        seed = self.fields.get("seed", arguments.get("seed", given.get("seed", 0)))
        if not isinstance(seed, str):
            seed = excerpt(int(seed) if isinstance(seed, Integral) else seed)
        return max(0, bounds.number_in(seed) or 0)

    def _made(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Job:
        seed_all(key(self._seed(arguments), "job"))
        with _own_arguments(self.path):
            job = _user(lambda: function(**arguments), f"{self.spec} failed")
        if not isinstance(job, Job):
            raise UsageError(f"{self.spec} must return a Job; it returned {type(job).__name__}.")
        return replace(job, **self.fields)


@dataclass(frozen=True)
class LoadedJob:
    """A job, the arguments that made it, and the code of the process that did where that is none of the run."""

    job: Job
    arguments: Mapping[str, Any]
    code: Mapping[str, CodeFile] = field(default_factory=dict)


def load(spec: str, assignments: Sequence[str] = (), kept: Mapping[str, Any] | None = None) -> LoadedJob:
    """Run a job file in this process and take its job.

    Args:
        spec, assignments, kept: as in `JobFile`.

    Raises:
        UsageError, JobError: see `JobFile.of` and `JobFile.read`.
    """
    return JobFile.of(spec, assignments, kept=kept).loaded()


def loaded(job: Job | JobFile, travels: bool = False, threads: int | None = None) -> LoadedJob:
    """A job that a person has given, or that of a file, which is run in this process.

    Args:
        job: it.
        travels, threads: see `JobFile.loaded`.

    Raises:
        UsageError, JobError: it is no job, or see `JobFile.read`.
    """
    return job.loaded(travels, threads) if isinstance(job, JobFile) else LoadedJob(checked(job), {})


def checked(job: object) -> Job:
    """A job that a person has given.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(job, Job):
        raise UsageError(f"a job is a unisono.Job; received {type(job).__name__}. Call the function that makes it.")
    return job


@contextmanager
def _own_arguments(path: Path) -> Iterator[None]:
    """The file's code sees the command line that `python FILE.py` would give it."""
    before, sys.argv = sys.argv, [str(path)]
    try:
        yield
    finally:
        sys.argv = before


class _Held(importlib.machinery.SourceFileLoader):
    """What a job file's module is made by: it tells the file as it was read, whatever stands there now.

    Args:
        name, path: the module's, and the file's.
        source: what the file held.
    """

    def __init__(self, name: str, path: str, source: bytes) -> None:
        super().__init__(name, path)
        self._source = source

    def get_data(self, path: Any) -> bytes:
        """What the file held."""
        return self._source if path == self.path else super().get_data(path)


def _execute(path: Path, source: bytes, seed: int) -> ModuleType:
    try:
        code = compile(source, str(path.resolve()), "exec")
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"a job is a Python file; {path} is not: {error}.") from error
    sys.path.insert(0, str(path.parent.resolve()))
    loader = _Held(path.stem, str(path.resolve()), source)
    specification = importlib.util.spec_from_file_location(path.stem, path.resolve(), loader=loader)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    settle_environment()
    with _own_arguments(path), seeded(key(seed, "file")):
        _user(lambda: exec(code, vars(module)), f"{path} failed while it was read")
    return module


def _user(call: Any, what: str) -> Any:
    try:
        return call()
    except UnisonoError:
        raise
    except SystemExit as request:
        raise JobError(f"{what}: {exit_told(request)}", user_traceback(request)) from request
    except Exception as error:
        raise JobError(f"{what}: {type(error).__name__}", user_traceback(error)) from error
