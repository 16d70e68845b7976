"""The figures of the page: panels of curves, and bars with intervals, as PNG files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from espnet_softpl.commands.report.history import History
from espnet_softpl.commands.scoring import Score
from espnet_softpl.core.files import atomic_file
from espnet_softpl.monitors import statistics
from espnet_softpl.monitors.guard import Guard

# Okabe and Ito's colors, which readers with color-blindness can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
COLORS += ("#000000", "#999933")

SECTIONS: dict[str, Sequence[statistics.Statistic]] = {
    "pl_quality": (
        *(statistics.CER, statistics.WER, *statistics.OF_ORACLE),
        *(statistics.KEPT, statistics.KEPT_AUDIO, statistics.KEPT_HOURS),
        statistics.UNUSABLE,
    ),
    "collapse": list(statistics.GUARDED),
    "schedule": [statistics.WEIGHT],
    "cache": [statistics.AGE, *statistics.OF_CACHE],
}

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
    **{
        section: {f"train/{each.name}": each.title for each in group}
        for section, group in SECTIONS.items()
    },
    "losses": {
        "train/loss": "training loss",
        "train/loss_labeled": "loss on labeled data",
        "train/loss_pl": "loss on pseudo-labels",
        "valid/loss": "validation loss",
        "train/grad_norm": "gradient norm",
        "train/optim0_lr0": "learning rate",
    },
}

LEGEND = 6  # Names in a row of the legend.


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """Return the color of each name; they repeat after eight."""
    return dict(zip(names, itertools.cycle(COLORS)))


class Line(NamedTuple):
    """What is drawn of one experiment."""

    name: str  # In the legend.
    color: str
    history: History
    guard: Guard | None = None  # Its limits are drawn in the panels of its monitors.
    alarms: Sequence[tuple[int, str]] = ()  # Mini-batch and text, drawn there too.


def draw_curves(panels: Mapping[str, str], lines: Sequence[Line], path: Path) -> None:
    """Draw a panel for each title by key of the history, with one legend for all.

    There is at least one panel, in rows of three; one without any curve says so.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure((4.2 * columns, 2.9 * rows + 0.4))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (key, title) in zip(axes.flat, panels.items()):
        _draw_panel(axis, key, title, [line for line in lines if key in line.history])
    _save(figure, axes.flat, path)


def _draw_panel(axis: Axes, key: str, title: str, lines: Sequence[Line]) -> None:
    """Draw one statistic of the experiments that have reported it."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("mini-batches", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    if not lines:
        axis.text(0.5, 0.5, "no data", ha="center", transform=axis.transAxes)
    factor = 100.0 if "(%)" in title else 1.0
    for name, color, history, guard, alarms in lines:
        steps, values = zip(*history[key])
        axis.plot(
            steps,
            [factor * value for value in values],
            label=name,
            color=color,
            linewidth=1.4,
            marker="." if len(steps) <= 120 else None,
            markersize=4,
        )
        if key not in FIGURES["collapse"]:
            continue
        if guard is not None:
            monitor = key.removeprefix("train/")
            levels = (guard.reference(monitor), *guard.bounds(monitor))
            for level, style in zip(levels, ("-.", "--", "--")):
                if math.isfinite(level):
                    axis.axhline(level, color=color, ls=style, lw=0.9, alpha=0.8)
        for step, _ in alarms:
            axis.axvline(step, color=color, ls=":", linewidth=1.2)


def draw_error_rates(
    systems: Mapping[str, Sequence[Mapping[str, Mapping[str, Score]]]],
    colors: Mapping[str, str],
    path: Path,
) -> None:
    """Draw error rates: a panel each for CER and WER, a group of bars for each set.

    The line on a bar is the 95 % confidence interval of a single training, or the
    range of several with different seeds, of which the bar is the mean.

    Args:
        systems: Score by unit, by set, of each training, by system.
        colors: Color by system.
        path: PNG file to write.
    """
    figure = Figure((9.5, 3.8))
    axes = figure.subplots(1, 2)
    sets = list(dict.fromkeys(n for runs in systems.values() for r in runs for n in r))
    width = 0.8 / len(systems)
    for axis, unit, title in zip(axes, ("char", "word"), ("CER (%)", "WER (%)")):
        for index, (system, runs) in enumerate(systems.items()):
            known = [name for name in sets if any(name in run for run in runs)]
            places = [sets.index(name) + index * width for name in known]
            heights, *reach = zip(
                *(bar_of([r[name][unit] for r in runs if name in r]) for name in known)
            )
            bars = dict(yerr=reach, capsize=3, label=system, color=colors[system])
            axis.bar(places, heights, width, **bars)
        axis.set_xticks([place + 0.4 - width / 2 for place in range(len(sets))], sets)
        axis.tick_params(labelsize=8)
        axis.set_title(title, fontsize=10)
    _save(figure, axes, path)


def bar_of(scores: Sequence[Score]) -> tuple[float, float, float]:
    """Return the height of a bar, and how far its line reaches down and up."""
    rates = [score.rate for score in scores]
    height, low, high = sum(rates) / len(rates), min(rates), max(rates)
    if len(scores) == 1:
        low, high = scores[0].low, scores[0].high
    return height, max(0.0, height - low), max(0.0, high - height)


def _save(figure: Figure, axes: Iterable[Axes], path: Path) -> None:
    """Write a figure with one legend as PNG; it appears only when complete."""
    entries = [zip(*axis.get_legend_handles_labels()) for axis in axes]
    names = {name: handle for pairs in entries for handle, name in pairs}
    if names:
        style = dict(ncols=LEGEND, loc="upper center", frameon=False)
        figure.legend(names.values(), names.keys(), fontsize=9, **style)
    # In inches. A layout that matplotlib finds takes as long as all of the drawing.
    width, height = figure.get_size_inches()
    top = 0.35 + 0.25 * math.ceil(len(names) / LEGEND)
    figure.subplots_adjust(
        left=0.55 / width,
        right=1.0 - 0.15 / width,
        bottom=0.5 / height,
        top=1.0 - top / height,
        wspace=0.2,
        hspace=0.4,
    )
    FigureCanvasAgg(figure)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
