"""What `verify` found, as a table and as advice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from unisono.commands.verify.whole_batch import WholeBatch
from unisono.commands.verify.worlds import World

ADVICE = {
    "sum": "it is a sum over samples. Use the mean (reduction='mean'), or return (sum, number of samples).",
    "weighted": "it is a mean by weights that are not known (ignore_index, weights of classes). Return (total, "
    "weight): the sum, and the sum of what it is divided by (with ignore_index: the number of tokens that count).",
    "coupled": "samples are coupled: the loss, or a layer, looks at the other samples (negatives of the batch, "
    "contrastive losses). A loss or metric sees one microbatch, {size} samples here and not {samples}, in evaluation "
    "too, which makes a score look better than it is. Set microbatches=1, or write it so that a sample needs no other.",
    "padding": "it depends on how far a batch is padded, in a plain loop as well. Mask what is padded, pad all samples "
    "to one length, or keep like lengths together (order=unisono.by_length).",
    "random": "",
    "mean": "",
    "statistics": "",
}
"""What a loss is that is not the same from a whole batch and from its microbatches, and what to do."""


def situations(*heads: str, found: Iterable[tuple[str, str, str]]) -> Table:
    """A table of situations for a terminal; hashes that are not the first one's are marked.

    Args:
        heads: of what is shown of each besides its name.
        found: of each its name, another text, and its hash.
    """
    table = Table("situation", *heads, box=box.SIMPLE_HEAD, padding=(0, 1))
    rows = list(found)
    for name, shown, digest in rows:
        table.add_row(name, shown, shortened(digest) + ("" if digest == rows[0][2] else "  differs"))
    return table


def shortened(digest: str) -> str:
    """A hash as it is shown where many stand.

    >>> shortened("0123456789abcdef" * 4)
    '0123456789abcdef…'
    """
    return f"{digest[:16]}…"


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        worlds: one result per situation.
        difference: (step, parameter) of the first difference, if there is one.
        batch: one batch beside the plain framework; a text says why there is none, None that a batch is one microbatch.
    """

    worlds: tuple[World, ...]
    difference: tuple[int, str] | None
    batch: WholeBatch | str | None

    @property
    def agree(self) -> bool:
        """Whether all situations gave the same bits."""
        return len({world.parameters_sha256 for world in self.worlds}) == 1

    def render(self) -> RenderableType:
        """A table for a terminal, and what it means."""
        rows = ((each.name, f"{1e3 * each.step_seconds:.2f}", each.parameters_sha256) for each in self.worlds)
        table = situations("ms / step", "parameters' SHA-256", found=rows)
        return Group(table, *beside_the_framework(self.batch), *self._verdict())

    def _verdict(self) -> Iterator[str]:
        expected = self.worlds[0].parameters_sha256
        if self.agree:
            yield f"Same bits in every situation:\n{expected}"
            return
        others = [world.name for world in self.worlds if world.parameters_sha256 != expected]
        where = "in buffers only"
        if self.difference:
            step, name = self.difference
            where = f"first after step {step}, in parameter {name!r}"
        yield f"The results differ from that of {self.worlds[0].name} ({'; '.join(others)}), {where}. {_cause(others)}"


def _cause(others: list[str]) -> str:
    if all(name.startswith("--debug") for name in others):
        return (
            "Workers agree: look for what the job file does at its top, or an earlier import, that reaches one process "
            "and not the others."
        )
    if all(" killed " in name or " resumed " in name for name in others):
        return (
            "Undisturbed worlds agree: look for state that is neither parameters, buffers nor the optimizer's state, "
            "which a new process begins anew (counters, caches, attributes)."
        )
    return "Look for randomness or state that is not the model's (counters, files, time)."


def beside_the_framework(batch: WholeBatch | str | None) -> Iterator[str]:
    """What a batch computed at once has shown.

    Args:
        batch: see `VerifyReport`.
    """
    if not isinstance(batch, WholeBatch):
        if batch is not None:
            yield f"One batch at once, as a plain loop computes it, was not compared: {batch}"
        return
    losses = f"the loss of one batch is {batch.whole:.6g} at once and {batch.cut:.6g} from its microbatches"
    if advice := ADVICE[batch.finding]:
        before = "Note" if batch.finding == "padding" else "Warning"
        if batch.distance is not None and batch.finding == "coupled":
            apart = f"by {batch.distance:.1g} of its norm"
            losses = f"the gradient of one batch is another one from its microbatches ({apart})"
        yield f"{before}: {losses}: {advice.format(size=batch.size, samples=batch.samples)}"
    elif batch.finding == "random":
        yield "One batch at once was not compared: collate, or the model in evaluation, draws at random."
    elif batch.finding == "statistics":
        yield (
            f"Note: a microbatch is normalised by its own {batch.size} samples' statistics ({_some(batch.buffers)}), "
            f"as in each process of DDP, so the gradient is not that of the batch of {batch.samples} at once (by "
            f"{batch.distance:.1g} of its norm). Fewer microbatches have more samples; LayerNorm and GroupNorm need "
            "none."
        )
    if batch.distance is None and batch.finding in ("mean", "padding"):
        yield (
            "One batch at once has the same loss in evaluation; gradients draw at random (dropout) and are not "
            "compared."
        )
    elif batch.finding == "mean":
        yield f"The plain framework's gradient of one batch at once is the same to {batch.distance:.0e} of its norm."
    for name in batch.metrics:
        yield (
            f"Warning: metric {name!r} sees one microbatch, and what it gives for a batch is not what its parts give "
            "together. Return (sum, count), or give an object with update, compute and reset, which sees every sample."
        )


def _some(names: tuple[str, ...]) -> str:
    """The first of many names.

    >>> _some(("a", "b", "c"))
    'a, b …'
    """
    return ", ".join(names[:2]) + (" …" if len(names) > 2 else "")
