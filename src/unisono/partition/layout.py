"""How the work is split: data × pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from unisono.errors import UsageError
from unisono.values.bounds import MOST_WORKERS, number_in, whole
from unisono.values.text import excerpt


@dataclass(frozen=True)
class Layout:
    """`data` pipes, each of them `pipeline` workers that hold a stage of the model each.

    Attributes:
        data: pipes that share the microbatches; None = as many as the workers allow.
        pipeline: stages; 1 = the model is not cut.

    Raises:
        UsageError: a number below 1, or of more workers than a host has.

    >>> Layout.parse("data=2,pipeline=3")
    Layout(data=2, pipeline=3)
    >>> str(Layout(pipeline=2)), Layout(pipeline=2).on(5)
    ('pipeline=2', Layout(data=2, pipeline=2))
    """

    data: int | None = None
    pipeline: int = 1

    def __post_init__(self) -> None:
        for name, value in (("data", self.data), ("pipeline", self.pipeline)):
            if value is not None:
                whole(f"a layout's {name}", value, most=MOST_WORKERS)

    @staticmethod
    def parse(text: str) -> Layout:
        """Read "data=2,pipeline=3"; either may be left out.

        Raises:
            UsageError: it is something else.
        """
        found: dict[str, int] = {}
        for part in text.split(","):
            name, _, value = part.partition("=")
            number = number_in(value)
            if name not in ("data", "pipeline") or name in found or number is None:
                raise UsageError(
                    f"a layout is data=N, pipeline=N or both with a comma between; received {excerpt(text)}. "
                    "Write data=2,pipeline=2."
                )
            found[name] = number
        return Layout(**found)

    def __str__(self) -> str:
        """As `parse` reads it."""
        parts = [f"data={self.data}"] if self.data is not None else []
        if self.pipeline > 1 or not parts:
            parts.append(f"pipeline={self.pipeline}")
        return ",".join(parts)

    @property
    def workers(self) -> int:
        """The fewest workers that can form it."""
        return (self.data or 1) * self.pipeline

    def on(self, workers: int) -> Layout:
        """With `data` filled in for so many workers.

        Raises:
            UsageError: it needs more workers.
        """
        if self.workers > workers:
            raise UsageError(
                f"a layout needs data × pipeline workers; {self} needs {self.workers}, and there are {workers}. Ask "
                f"for --workers {self.workers}, or a smaller layout."
            )
        return Layout(self.data or workers // self.pipeline, self.pipeline)
