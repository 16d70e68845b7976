"""Plots: panels of curves, and bars with intervals, as PNG files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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


def color_of(index: int) -> str:
    """Return the color of the experiment with this number, from 0; they repeat.

    Args:
        index: The number.
    """
    return COLORS[index % len(COLORS)]


class Curve(NamedTuple):
    """One line of a panel.

    Attributes:
        name: What the legend calls it.
        points: Mini-batches and values; none draws nothing.
        color: Its color.
        style: Its line style, as matplotlib has them.
    """

    name: str
    points: Sequence[tuple[int, float]]
    color: str
    style: str = "-"


@dataclasses.dataclass
class Panel:
    """One statistic over training, of several experiments.

    Attributes:
        title: What is above it.
        curves: The lines.
        levels: Horizontal lines: level, color and line style.
        marks: Vertical lines: mini-batches and color.
        scale: Of the values, `linear` or `log`.
    """

    title: str
    curves: list[Curve] = dataclasses.field(default_factory=list)
    levels: list[tuple[float, str, str]] = dataclasses.field(default_factory=list)
    marks: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    scale: str = "linear"

    def add(
        self,
        name: str,
        points: Sequence[tuple[int, float]],
        color: str,
        style: str = "-",
    ) -> None:
        """Add a line, unless it has no points.

        Args:
            name: What the legend calls it.
            points: Mini-batches and values.
            color: Its color.
            style: Its line style.
        """
        if points:
            self.curves.append(Curve(name, points, color, style))


class Bar(NamedTuple):
    """A bar with a line from `low` to `high` on it, in percent."""

    height: float
    low: float
    high: float


def draw_panels(panels: Sequence[Panel], path: Path, columns: int = 3) -> None:
    """Draw panels side by side, with one legend for all.

    Args:
        panels: At least one; those without a line say so.
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
    named = {c.name: c.color for panel in panels for c in panel.curves}
    if named:
        figure.legend(
            [Line2D([], [], color=color) for color in named.values()],
            list(named),
            fontsize=9,
            ncols=2 * columns,
            loc="outside upper center",
            frameon=False,
        )
    save(figure, path)


def _draw_panel(axis: object, panel: Panel) -> None:
    """Draw one panel: curves, levels and marks."""
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel("mini-batches", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    for curve in panel.curves:
        steps, values = zip(*curve.points)
        axis.plot(
            steps,
            values,
            curve.style,
            color=curve.color,
            linewidth=1.4,
            marker="." if len(steps) <= DOTS else None,
            markersize=4,
        )
    if not panel.curves:
        axis.text(0.5, 0.5, "no data", ha="center", transform=axis.transAxes)
        return
    if panel.scale == "log":
        axis.set_yscale("log")
    for level, color, style in panel.levels:
        if math.isfinite(level):
            axis.axhline(level, color=color, linestyle=style, linewidth=0.9, alpha=0.8)
    for step, color in panel.marks:
        axis.axvline(step, color=color, linestyle=":", linewidth=1.2)


def draw_bars(
    groups: Mapping[str, Mapping[str, Mapping[str, Bar]]], path: Path
) -> None:
    """Draw bars, one panel per unit and in it one group of bars per set.

    Args:
        groups: Bar by set, by experiment, by unit (the title of the panel, in
            percent).
        path: PNG file to write.
    """
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, (title, systems) in zip(axes, groups.items()):
        sets = list(dict.fromkeys(name for bars in systems.values() for name in bars))
        width = 0.8 / len(systems)
        for index, (system, bars) in enumerate(systems.items()):
            places = [sets.index(name) + index * width for name in bars]
            found = list(bars.values())
            reach = [
                [max(0.0, bar.height - bar.low) for bar in found],
                [max(0.0, bar.high - bar.height) for bar in found],
            ]
            axis.bar(
                places,
                [bar.height for bar in found],
                width,
                yerr=reach if found else None,
                capsize=3,
                label=system,
                color=color_of(index),
            )
        axis.set_xticks([place + 0.4 - width / 2 for place in range(len(sets))], sets)
        axis.tick_params(labelsize=8)
        axis.set_title(f"{title} (%)", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=6, loc="outside upper center")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; it appears under its name only when complete.

    Args:
        figure: The figure.
        path: File to write; its directory is made.
    """
    FigureCanvasAgg(figure)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
