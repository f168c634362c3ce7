"""Draw results/worlds.json: losses of one job on 1, 2 and 4 workers, under DDP and under Unisono.

python benchmarks/worlds_picture.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "worlds.json"
PICTURE = HERE.parent / "docs" / "worlds.png"

COLOURS = {"1": "#1f5fa8", "2": "#e08a1e", "4": "#3c9a6a"}
WIDTHS = {"1": 5.4, "2": 3.0, "4": 1.0}
"""Of lines that lie on each other: the first drawn is the widest, so each is seen."""
PALETTE = 64
"""Colours of the file, which are enough for lines and text and make it small."""
KILLED = "#c4242b"
INK, GREY = "#1c2530", "#6b7480"

TITLES = {"ddp": "PyTorch DDP: three results", "unisono": "Unisono: one result"}
NOUNS = {"ddp": "process", "unisono": "worker"}


def counted(count: str, noun: str) -> str:
    """
    >>> counted("1", "worker"), counted("2", "process")
    ('1 worker', '2 processes')
    """
    return f"{count} {noun}" + ("" if count == "1" else "es" if noun.endswith("s") else "s")


def draw_losses(axes: Axes, runs: dict[str, Any], widths: dict[str, float], noun: str) -> None:
    """Each run's losses, and where its workers were killed."""
    for count, run in runs.items():
        steps = range(1, len(run["losses"]) + 1)
        label = f"{counted(count, noun):<11}  {run['sha256'][:12]}…"
        axes.plot(steps, run["losses"], color=COLOURS[count], linewidth=widths[count], label=label)
    kills = [(step, run["losses"][step - 1]) for run in runs.values() for step in run.get("kills", [])]
    if kills:
        axes.plot(
            *zip(*kills, strict=True), "X", color=KILLED, markersize=10, markeredgecolor="white", markeredgewidth=1.2,
            label=f"{'a worker is killed':<11}", zorder=5,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_yticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
    axes.legend(
        loc="upper right", frameon=False, prop={"family": "DejaVu Sans Mono", "size": 9.5}, labelcolor=INK,
        title="parameters at the end, SHA-256", title_fontproperties={"size": 9.5}, alignment="left",
    )  # fmt: skip


def draw_ratios(axes: Axes, runs: dict[str, Any], widths: dict[str, float]) -> None:
    """Each run's losses beside those of one worker."""
    alone = runs["1"]["losses"]
    for count, run in runs.items():
        ratios = [loss / other for loss, other in zip(run["losses"], alone, strict=True)]
        axes.plot(range(1, len(ratios) + 1), ratios, color=COLOURS[count], linewidth=widths[count])
    axes.set_yscale("log", base=2)
    axes.set_yticks([0.5, 1, 2], ["½", "1", "2"])
    axes.set_xlabel("step", color=INK, fontsize=11)


def settings(measured: dict[str, Any]) -> str:
    """What was trained, in a line."""
    return (
        f"examples/digits_torch.py (CNN, BatchNorm, dropout; AdamW), seed 0, {measured['batch_size']} samples a step "
        f"in all; PyTorch {measured['torch'].partition('+')[0]} on a CPU, DDP with gloo"
    )


def draw(measured: dict[str, Any]) -> Figure:
    """The picture.

    Args:
        measured: what `worlds.py` wrote.
    """
    figure, grid = plt.subplots(
        2, 2, figsize=(10, 5.4), dpi=160, sharex=True, sharey="row", height_ratios=(3, 1.15), layout="constrained"
    )
    for column, (name, title) in enumerate(TITLES.items()):
        upper, lower = grid[:, column]
        widths = WIDTHS if name == "unisono" else dict.fromkeys(WIDTHS, 1.6)
        draw_losses(upper, measured[name], widths, NOUNS[name])
        draw_ratios(lower, measured[name], widths)
        upper.set_title(title, loc="left", fontsize=14, fontweight="bold", color=INK)
        for axes in (upper, lower):
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(GREY)
            axes.tick_params(colors=GREY, labelsize=9.5)
            axes.grid(axis="y", color="#e4e7ea", linewidth=0.8)
    grid[0, 0].set_ylabel("training loss", color=INK, fontsize=11)
    grid[1, 0].set_ylabel("÷ loss of\none alone", color=INK, fontsize=11)
    figure.supxlabel(settings(measured), x=0.01, ha="left", fontsize=9, color=GREY)
    return figure


def main() -> None:
    """Read, draw, save."""
    mpl.rcParams["font.family"] = "DejaVu Sans"
    draw(json.loads(RESULTS.read_text())).savefig(PICTURE, facecolor="white")
    with Image.open(PICTURE) as picture:
        few = picture.convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)
    few.save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
