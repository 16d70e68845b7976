"""The figures of the page: panels of curves, and bars with intervals, as PNG files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from espnet_softpl.commands.report import meaning
from espnet_softpl.commands.report.history import History
from espnet_softpl.commands.scoring import Score
from espnet_softpl.core.files import atomic_file

# Okabe and Ito's colors, which readers with color-blindness can tell apart.
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
    "#999933",
)

DOTS = 120  # Points above which a curve is drawn without markers.

# Title of each panel by the curve's key in the history, by figure. What a title calls
# (%) is multiplied by 100.
FIGURES: dict[str, dict[str, str]] = {
    "validation": {
        "valid/cer_ctc": "validation CER, greedy CTC (%)",
        "valid/cer": "validation CER, decoder (%)",
        "valid/wer": "validation WER, decoder (%)",
        "valid/acc": "validation accuracy, decoder (%)",
        "valid/loss": "validation loss",
    },
    "pl_quality": meaning.titles("labels"),
    "collapse": meaning.titles("collapse"),
    "losses": {
        "train/loss": "training loss",
        "train/loss_labeled": "loss on labeled data",
        "train/loss_pl": "loss on pseudo-labels",
        "valid/loss": "validation loss",
        "train/grad_norm": "gradient norm",
        "train/optim0_lr0": "learning rate",
    },
    "schedule": meaning.titles("schedule"),
    "cache": meaning.titles("cache"),
}


def color_of(index: int) -> str:
    """Return the color of the experiment with this number, from 0; they repeat."""
    return COLORS[index % len(COLORS)]


class Line(NamedTuple):
    """What is drawn of one experiment: name in the legend, color and curves."""

    name: str
    color: str
    history: History


@dataclasses.dataclass
class Panel:
    """One statistic over training, of several experiments.

    Attributes:
        title: What is above it.
        curves: Name, color, and pairs of mini-batches and values.
        levels: Horizontal lines: level, color and line style; drawn if finite.
        marks: Vertical lines: mini-batches and color.
    """

    title: str
    curves: list[tuple[str, str, Sequence[tuple[int, float]]]]
    levels: list[tuple[float, str, str]] = dataclasses.field(default_factory=list)
    marks: list[tuple[int, str]] = dataclasses.field(default_factory=list)

    @property
    def constant(self) -> float | None:
        """The value that all curves have in all of several epochs, None if none."""
        values = {value for _, _, points in self.curves for _, value in points}
        several = any(len(points) > 1 for _, _, points in self.curves)
        return values.pop() if several and len(values) == 1 else None


def make_panels(titles: Mapping[str, str], lines: Iterable[Line]) -> dict[str, Panel]:
    """Return one panel for each title, by key; it may have no curve.

    Args:
        titles: Title by key of the history, as in `FIGURES`.
        lines: The experiments; one that has not reported a statistic has no curve.
    """
    panels = {}
    for key, title in titles.items():
        factor = 100.0 if "(%)" in title else 1.0
        curves = [
            (line.name, line.color, [(x, factor * y) for x, y in line.history[key]])
            for line in lines
            if key in line.history
        ]
        panels[key] = Panel(title, curves)
    return panels


def draw_panels(panels: Sequence[Panel], path: Path, columns: int = 3) -> None:
    """Draw panels side by side, with one legend for all.

    Args:
        panels: At least one; those without a curve say so.
        path: PNG file to write.
        columns: Panels in a row, at most.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    size = (4.2 * columns, 2.9 * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels):
        _draw_panel(axis, panel)
    colors = {name: color for panel in panels for name, color, _ in panel.curves}
    if colors:
        figure.legend(
            [Line2D([], [], color=color) for color in colors.values()],
            list(colors),
            fontsize=9,
            ncols=2 * columns,
            loc="outside upper center",
            frameon=False,
        )
    _save(figure, path)


def _draw_panel(axis: object, panel: Panel) -> None:
    """Draw one panel: curves, levels and marks."""
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel("mini-batches", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    for _, color, points in panel.curves:
        marker = "." if len(points) <= DOTS else None
        line = dict(color=color, linewidth=1.4, marker=marker, markersize=4)
        axis.plot(*zip(*points), "-", **line)
    if not panel.curves:
        axis.text(0.5, 0.5, "no data", ha="center", transform=axis.transAxes)
        return
    for level, color, style in panel.levels:
        if math.isfinite(level):
            axis.axhline(level, color=color, linestyle=style, linewidth=0.9, alpha=0.8)
    for step, color in panel.marks:
        axis.axvline(step, color=color, linestyle=":", linewidth=1.2)


def draw_error_rates(
    systems: Mapping[str, Sequence[Mapping[str, Mapping[str, Score]]]], path: Path
) -> None:
    """Draw error rates: a panel each for CER and WER, a group of bars for each set.

    The line on a bar is the 95 % confidence interval of a single training, or the
    range of several with different seeds, of which the bar is the mean.

    Args:
        systems: The scores of one training or several by unit, by set, by system.
        path: PNG file to write.
    """
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    sets = list(dict.fromkeys(n for runs in systems.values() for r in runs for n in r))
    width = 0.8 / len(systems)
    for axis, unit, title in zip(axes, ("char", "word"), ("CER (%)", "WER (%)")):
        for index, (system, runs) in enumerate(systems.items()):
            bars = {}
            for name in sets:
                scores = [run[name][unit] for run in runs if name in run]
                if scores:
                    place = sets.index(name) + index * width
                    bars[place] = _bar(scores)
            heights, *reach = zip(*bars.values()) if bars else ((), (), ())
            axis.bar(
                list(bars),
                heights,
                width,
                yerr=reach if bars else None,
                capsize=3,
                label=system,
                color=color_of(index),
            )
        axis.set_xticks([place + 0.4 - width / 2 for place in range(len(sets))], sets)
        axis.tick_params(labelsize=8)
        axis.set_title(title, fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=6, loc="outside upper center")
    _save(figure, path)


def _bar(scores: Sequence[Score]) -> tuple[float, float, float]:
    """Return the height of a bar, and how far its line reaches down and up from it."""
    rates = [score.rate for score in scores]
    height, low, high = sum(rates) / len(rates), min(rates), max(rates)
    if len(scores) == 1:
        low, high = scores[0].low, scores[0].high
    return height, max(0.0, height - low), max(0.0, high - height)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; it appears under its name only when complete."""
    FigureCanvasAgg(figure)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
