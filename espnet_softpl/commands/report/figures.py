"""The charts of the page, as plotly.js reads them: curves, and bars with intervals."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from espnet_softpl.commands.report.runs import Run
from espnet_softpl.commands.scoring import UNITS, Score
from espnet_softpl.monitors import guard, statistics

# Okabe and Ito's colors, which readers with color-blindness can tell apart; gray in
# place of black, which cannot be seen on a dark page.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
COLORS += ("#808080", "#999933")

SECTIONS: dict[str, Sequence[statistics.Statistic]] = {
    "pl_quality": (
        *(statistics.CER, statistics.WER, *statistics.OF_ORACLE),
        *(statistics.KEPT, statistics.KEPT_AUDIO, statistics.KEPT_HOURS),
        statistics.UNUSABLE,
    ),
    "collapse": list(guard.GUARDED),
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

# A trace tells in `meta` its system, which a reader may hide, and its kind: `only` of
# a single run; `run`, `mean` and `band` of several seeds; `level` for what is beside.
Trace = dict[str, Any]
Chart = dict[str, Any]  # `title`, `x` (the axis) and `data`, a list of traces.


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """Return the color of each name; they repeat after eight."""
    return dict(zip(names, itertools.cycle(COLORS)))


def draw_curves(
    key: str,
    title: str,
    systems: Mapping[str, Sequence[Run]],
    colors: Mapping[str, str],
) -> Chart:
    """Draw one statistic of the runs that have reported it, by system.

    Several runs of a system have a mean and a band from the lowest to the highest, as
    far as all of them have come.
    """
    factor = 100.0 if "(%)" in title else 1.0
    traces: list[Trace] = []
    for system, group in systems.items():
        own = [run for run in group if key in run.history]
        if own:
            draw = _Pen(system, colors[system], factor)
            _draw_system(draw, key, own)
            traces += draw.traces
    return {"title": title, "x": "mini-batches", "data": traces}


class _Pen:
    """Makes the traces of one system."""

    def __init__(self, system: str, color: str, factor: float) -> None:
        self.system, self.color, self.factor = system, color, factor
        self.traces: list[Trace] = []

    def __call__(
        self, kind: str, name: str, x: Iterable[float], y: Iterable[float], **more: Any
    ) -> None:
        # plotly.js takes some HTML in names and texts; a run's name is none.
        name = html.escape(name, quote=False)
        self.traces.append(
            {
                "x": list(x),
                "y": [float(f"{self.factor * value:.5g}") for value in y],
                "name": name,
                "meta": {"system": self.system, "kind": kind},
                "mode": "lines",
                "hovertemplate": f"%{{y:.4g}}<extra>{name}</extra>",
                **more,
                "line": {"color": self.color, "width": 1.6} | more.get("line", {}),
            }
        )


def _draw_system(draw: _Pen, key: str, runs: Sequence[Run]) -> None:
    curves = [dict(run.history[key]) for run in runs]
    for run, curve in zip(runs, curves):
        kind = "run" if len(runs) > 1 else "only"
        mode = "lines+markers" if len(curve) <= 120 else "lines"
        marker = {"size": 4, "color": draw.color}
        draw(kind, run.name, curve, curve.values(), mode=mode, marker=marker)
    if len(runs) > 1:
        steps = [step for step in curves[0] if all(step in curve for curve in curves)]
        values = np.array([[curve[step] for step in steps] for curve in curves])
        low, high = values.min(axis=0), values.max(axis=0)
        draw(
            *("band", draw.system, [*steps, *steps[::-1]], [*high, *low[::-1]]),
            line={"width": 0},
            fill="toself",
            fillcolor=f"{draw.color}33",
            hoverinfo="skip",
        )
        spread = [
            f"{draw.factor * a:.4g} to {draw.factor * b:.4g}" for a, b in zip(low, high)
        ]
        draw(
            *(
                "mean",
                f"{draw.system}, mean of {len(runs)}",
                steps,
                values.mean(axis=0),
            ),
            line={"width": 2.2},
            customdata=spread,
            hovertemplate="%{y:.4g} (%{customdata})<extra>%{fullData.name}</extra>",
        )
    _draw_levels(draw, key, runs)
    _draw_alarms(draw, key, runs)


def _draw_levels(draw: _Pen, key: str, runs: Sequence[Run]) -> None:
    """Draw the base model's level from where pseudo-labels begin, and the limits.

    Those of several runs are their means.
    """
    start = min(run.start for run in runs)
    ends = [start, max(run.history[key][-1][0] for run in runs)]
    monitor = key.removeprefix("train/")
    bounds = [run.guard.bounds(monitor) for run in runs if run.guard and _watched(key)]
    lines = [
        ("base model", "dashdot", [r.levels[key] for r in runs if key in r.levels])
    ]
    lines += [
        (f"{end} limit", "dash", [bound[place] for bound in bounds])
        for place, end in enumerate(("lowest", "highest"))
    ]
    for name, dash, values in lines:
        if values and math.isfinite(level := sum(values) / len(values)):
            mark = {"symbol": ["diamond", "line-ew"], "size": [8, 0]}
            draw(
                *("level", f"{draw.system}: {name}", ends, [level, level]),
                line={"dash": dash, "width": 1.2},
                mode="lines+markers" if name == "base model" else "lines",
                marker=mark | {"color": draw.color},
            )


def _draw_alarms(draw: _Pen, key: str, runs: Sequence[Run]) -> None:
    """Mark on the curves of a monitor where the guard raised alarms."""
    for run in runs if _watched(key) else ():
        if run.alarms:
            at = [alarm.step for alarm in run.alarms]
            draw(
                *(
                    "level",
                    f"{run.name}: alarm",
                    at,
                    np.interp(at, *zip(*run.history[key])),
                ),
                mode="markers",
                marker={"symbol": "x", "size": 9, "color": draw.color},
            )


def _watched(key: str) -> bool:
    return key in FIGURES["collapse"]


def draw_error_rates(
    systems: Mapping[str, Sequence[Run]], colors: Mapping[str, str]
) -> list[Chart]:
    """Draw error rates: a chart each for CER and WER, a group of bars for each set.

    The line on a bar is the 95 % confidence interval of a single training, or the
    range of several with different seeds, of which the bar is the mean.
    """
    charts = []
    for unit, title in UNITS.items():
        chart: Chart = {"title": f"{title} (%)", "x": "", "data": []}
        charts.append(chart)
        for system, group in systems.items():
            runs = [run.scores for run in group]
            sets = list(dict.fromkeys(name for run in runs for name in run))
            bars = [bar_of([run[n][unit] for run in runs if n in run]) for n in sets]
            if not bars:
                continue
            rates, down, up = zip(*bars)
            reach = {"type": "data", "array": up, "arrayminus": down}
            draw = _Pen(system, colors[system], 1.0)
            draw(
                *("only", system, [html.escape(name, quote=False) for name in sets]),
                rates,
                type="bar",
                marker={"color": colors[system]},
                error_y=reach
                | {"symmetric": False, "thickness": 1.5, "color": "#808080"},
                customdata=[f"{h - d:.1f} to {h + u:.1f}" for h, d, u in bars],
                hovertemplate="%{y:.1f} (%{customdata})<extra>%{fullData.name}</extra>",
            )
            del draw.traces[0]["line"], draw.traces[0]["mode"]
            chart["data"] += draw.traces
    return charts


def bar_of(scores: Sequence[Score]) -> tuple[float, float, float]:
    """Return the height of a bar, and how far its line reaches down and up."""
    rates = [score.rate for score in scores]
    height, low, high = sum(rates) / len(rates), min(rates), max(rates)
    if len(scores) == 1:
        low, high = scores[0].low, scores[0].high
    return height, max(0.0, height - low), max(0.0, high - height)
