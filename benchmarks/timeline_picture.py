"""Draw a run's timeline: workers as rows, what they did as bars, microbatches as the numbers in them.

python benchmarks/timeline_picture.py runs/job/timeline.json schedule.png [--steps 3] [--steps 3:4] [--title TEXT]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from timeline_events import Event, Timeline, read

STYLES: dict[str, tuple[str, str, str]] = {
    "forward": ("forward", "#3b76af", "white"),
    "backward": ("backward", "#e58a2e", "black"),
    "gradient": ("forward and backward", "#8465a8", "white"),
    "norms": ("norms", "#9c9c2f", "black"),
    "update": ("update", "#4f9a58", "white"),
    "evaluate": ("evaluation", "#8a5a44", "white"),
}
"""Name of an event → how the legend calls it, the bar's colour, the number's colour."""

WAITING = ("waiting, other", "#e6e6e6")
BAR_HEIGHT = 0.62


def draw(timeline: Timeline, steps: range, title: str) -> Figure:
    """The picture of some steps.

    Args:
        timeline: what was read.
        steps: which steps, one after another.
        title: above the picture.

    Raises:
        ValueError: the timeline holds no event of these steps.
    """
    events = [event for event in timeline.events if event.step in steps]
    if not events:
        raise ValueError(f"the timeline has the steps {timeline.steps.start} to {timeline.steps.stop - 1}")
    workers = sorted({event.worker for event in events} | set(timeline.titles))
    start, end = min(event.started for event in events), max(event.ended for event in events)
    figure, axes = plt.subplots(figsize=(11, 1.75 + 0.55 * len(workers)), dpi=150, layout="constrained")
    for row, worker in enumerate(workers):
        axes.barh(row, 1e3 * (end - start), height=BAR_HEIGHT, color=WAITING[1], linewidth=0)
        for event in events:
            if event.worker == worker:
                _, colour, _ = STYLES[event.name]
                left, width = 1e3 * (event.started - start), 1e3 * (event.ended - event.started)
                axes.barh(row, width, left=left, height=BAR_HEIGHT, color=colour, edgecolor="white", linewidth=0.6)
    for step in steps[1:]:
        first = min((event.started for event in events if event.step == step), default=None)
        if first is not None:
            axes.axvline(1e3 * (first - start), color="#555555", linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(workers)), [timeline.titles.get(worker, f"worker {worker}") for worker in workers])
    axes.set_ylim(len(workers) - 0.5, -0.5)
    axes.set_xlim(0, 1e3 * (end - start))
    axes.set_xlabel("ms")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _legend(figure, {event.name for event in events})
    _numbers(axes, events, workers, start)
    return figure


def _legend(figure: Figure, names: set[str]) -> None:
    shown = [Patch(color=colour, label=label) for name, (label, colour, _) in STYLES.items() if name in names]
    shown.append(Patch(color=WAITING[1], label=WAITING[0]))
    figure.legend(handles=shown, loc="outside lower center", ncols=len(shown), frameon=False, fontsize=9)


def _numbers(axes: Axes, events: list[Event], workers: list[int], start: float) -> None:
    """Write the microbatches' numbers where they fit in their bars."""
    figure: Any = axes.figure
    figure.canvas.draw()  # settles the axes' size
    for event in events:
        if event.microbatch is None:
            continue
        left, right = 1e3 * (event.started - start), 1e3 * (event.ended - start)
        text = axes.text(
            (left + right) / 2, workers.index(event.worker), str(event.microbatch), ha="center", va="center",
            fontsize=8, color=STYLES[event.name][2],
        )  # fmt: skip
        room = axes.transData.transform((right, 0))[0] - axes.transData.transform((left, 0))[0]
        if text.get_window_extent().width > 0.9 * room:
            text.remove()


def _asked_steps(text: str) -> range:
    first, _, last = text.partition(":")
    return range(int(first), int(last or first) + 1)


def main() -> None:
    """Read, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("timeline", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument(
        "--steps", type=_asked_steps, help="FIRST or FIRST:LAST, counted from 1; default: the last but one"
    )
    parser.add_argument("--title")
    arguments = parser.parse_args()
    timeline = read(arguments.timeline)
    usual = timeline.steps[-2:-1] or timeline.steps
    steps = arguments.steps or usual
    named = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    try:
        figure = draw(timeline, steps, arguments.title or f"What each worker did in {named}; numbers are microbatches")
    except ValueError as error:
        parser.error(str(error))
    figure.savefig(arguments.picture)


if __name__ == "__main__":
    main()
