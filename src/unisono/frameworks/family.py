"""What is known of a framework before it is imported: what an adapter's package registers as its entry point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """A framework, and the adapter that joins it to the core.

    Attributes:
        package: the adapter's name.
        module: its package, with `model.py` (class `Adapter`) and `data.py` (class `Data`).
        roots: top-level packages that its models' classes come from.
        extra: the extra of Unisono's that installs it; None where another distribution brings the adapter.
        forks_after_computing: whether a process that has computed with it on one thread can still be forked.
        model_file: the name of the file in which the framework keeps a whole model, if it has such files: a run calls
            the adapter's `export(path)` at its end.
        environment: what must stand in the environment before it is first used, in the process that forks.
        preferred: what stands in the environment unless a person has set something else.
        compiled: the environment variable that names a folder for what it compiles: a run's processes share one.
        late: modules that it imports when it is first used: a process that is copied for several runs has them before.
        drawing: packages that have default generators from their import on; under each, whether those are its own now.
    """

    package: str
    module: str
    roots: tuple[str, ...]
    extra: str | None = None
    forks_after_computing: bool = False
    model_file: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    preferred: Mapping[str, str] = field(default_factory=dict)
    compiled: str | None = None
    late: tuple[str, ...] = ()
    drawing: Mapping[str, Callable[[], bool]] = field(default_factory=dict)
