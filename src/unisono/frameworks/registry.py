"""Which adapter serves a job: seen from the model that the job makes. Adapters are imported only when needed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any

from unisono.errors import UsageError, way_to_install
from unisono.frameworks.family import Family
from unisono.frameworks.nests import leaves

if TYPE_CHECKING:
    from unisono.frameworks.protocol import Adapter, DataFunctions
    from unisono.job import Job
    from unisono.memory.spans import Views


GROUP = "unisono.frameworks"
"""The group of entry points by which adapters are found: each names a `Family`."""


@cache
def families() -> tuple[Family, ...]:
    """The frameworks whose adapters are installed, by name.

    Raises:
        UsageError: there is none: not even Unisono's own are registered.
    """
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    if not points:
        raise UsageError(
            f"adapters are found by the entry points {GROUP!r}, which Unisono's installation registers; there are none "
            "here. Install it anew: pip install -e . in Unisono's folder."
        )
    return tuple(point.load() for point in points)


def settle_environment() -> None:
    """Put into this process's environment what frameworks should find there when they are imported, unless a person
    has set something else."""
    for family in families():
        for name, value in family.preferred.items():
            os.environ.setdefault(name, value)


@dataclass(frozen=True)
class Framework:
    """A framework's two halves: the adapter's class and its data functions."""

    family: Family
    adapter: type[Adapter]
    data: DataFunctions

    @property
    def name(self) -> str:
        """The adapter's package."""
        return self.family.package


def family_of(name: str) -> Family:
    """What is known of the framework whose adapter has this name."""
    return next(family for family in families() if family.package == name)


def framework(name: str) -> Framework:
    """The adapter of a name.

    Raises:
        UsageError: the framework is not installed.
    """
    family = family_of(name)
    try:
        model = importlib.import_module(f"{family.module}.model")
        return Framework(family, model.Adapter, data_of(family)())
    except ModuleNotFoundError as error:
        way = way_to_install(family.extra) if family.extra else f"pip install {error.name}"
        raise UsageError(f"this job needs {error.name!r}, which is not installed. Install it: {way}.") from error


def data_of(family: Family) -> type[DataFunctions]:
    """The class of a framework's data functions."""
    found: type[DataFunctions] = importlib.import_module(f"{family.module}.data").Data
    return found


def complete_imports() -> None:
    """Import what the frameworks of this process import when they are first used."""
    for family in loaded():
        for name in family.late:
            importlib.import_module(name)


def loaded() -> tuple[Family, ...]:
    """The families that are imported in this process."""
    return tuple(family for family in families() if any(root in sys.modules for root in family.roots))


def hold_threads(packages: Iterable[str], threads: int) -> None:
    """Fix the threads of frameworks before a job is made, whose objects may compute then (a Keras optimizer).

    Args:
        packages: their adapters.
        threads: how many this process will compute with.
    """
    for name in packages:
        framework(name).data.pin(threads)


def views() -> Views:
    """How arrays of the frameworks that are imported in this process are seen (see `DataFunctions.views`)."""
    found: dict[type, Any] = {}
    for family in loaded():
        found |= data_of(family).views()
    return found


def settings(packages: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """What is set in this process (see `DataFunctions.settings`), by adapter.

    Args:
        packages: the adapters.
    """
    return {name: framework(name).data.settings() for name in packages}


def settle(settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Set in this process what `settings` gave in another one."""
    for package, values in settings.items():
        framework(package).data.settle(values)


@contextmanager
def left_as_they_are() -> Iterator[None]:
    """A block after which this process has the settings that it had: a run on several threads has others."""
    before = settings(family.package for family in loaded())
    try:
        yield
    finally:
        settle(before)


def named_beside(function: Any) -> tuple[Family, ...]:
    """The families that the module of a function names: a quick guess at what the function makes."""
    home = sys.modules.get(getattr(function, "__module__", None) or type(function).__module__)
    origins = {_origin(value) for value in vars(home).values()} if home else set()
    return tuple(family for family in families() if origins & set(family.roots))


def _origin(value: Any) -> str:
    """The top-level package that a module, class or function comes from."""
    name = getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", None)
    return name.partition(".")[0] if isinstance(name, str) else ""


def made(job: Job, threads: int) -> tuple[Framework, Any]:
    """Make the job's model, with every generator seeded that it may draw from, and see whose it is.

    Args:
        job: its `model` is called once; twice if that call is what imports the framework.
        threads: threads that this process will compute with.

    Returns:
        The framework and the model.

    Raises:
        UsageError: it is no framework's model.
    """
    before = loaded()
    model = _seeded(job, threads, before)
    family = _family_seen_in(model)
    if family not in before:
        model = _seeded(job, threads, loaded())
    return framework(family.package), model


def _seeded(job: Job, threads: int, families: tuple[Family, ...]) -> Any:
    for family in families:
        functions = framework(family.package).data
        functions.pin(1 if family.forks_after_computing else threads)  # a pool of threads would not survive a fork
        functions.seed_model(job.seed)
    return job.model()


def _family_seen_in(model: Any) -> Family:
    for _, part in leaves(model):
        for kind in type(part).__mro__:  # a class may come from several: a Keras model on PyTorch is a Module too
            for family in families():
                if kind.__module__.partition(".")[0] in family.roots:
                    return family
    names = ", ".join(family.extra or family.package for family in families())
    raise UsageError(
        f"job.model must return a model of a framework that Unisono knows ({names}); received "
        f"{type(model).__name__}. Write model=Net or model=lambda: Net(...)."
    )
