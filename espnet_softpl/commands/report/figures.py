"""The charts of the page, as plotly.js reads them: curves, and bars with intervals."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from espnet_softpl.commands.report.runs import Run
from espnet_softpl.commands.scoring import UNITS, Score
from espnet_softpl.monitors import guard, statistics

# Okabe and Ito's colors, which readers with color-blindness can tell apart; gray in
# place of black, which cannot be seen on a dark page.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
COLORS += ("#808080", "#999933")
ERROR_BAR = {"thickness": 1.5, "color": "#808080"}

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


def factor_of(title: str) -> float:
    """Return what the values of a panel are multiplied by."""
    return 100.0 if "(%)" in title else 1.0


def draw_curves(
    key: str, title: str, systems: Mapping[str, Sequence[Run]], colors: dict[str, str]
) -> Chart:
    """Draw one statistic of the runs that have reported it, by system.

    Several runs of a system have a mean and a band from the lowest to the highest, as
    far as all of them have come.
    """
    traces: list[Trace] = []
    for system, group in systems.items():
        if runs := [run for run in group if key in run.history]:
            pen = _Pen(system, colors[system], key, factor_of(title), runs)
            traces += [*pen.curves(), *pen.spread(), *pen.levels(), *pen.alarms()]
    return {"title": title, "x": "mini-batches", "data": traces}


class _Pen(NamedTuple):
    """Draws one statistic of the runs of one system."""

    system: str
    color: str
    key: str
    factor: float
    runs: Sequence[Run]  # That have reported it.

    def trace(
        self, kind: str, name: str, x: Iterable[float], y: Iterable[float], **more: Any
    ) -> Trace:
        # plotly.js takes some HTML in names and texts; a run's name is none.
        name = html.escape(name, quote=False)
        return {
            "x": list(x),
            "y": [float(f"{self.factor * value:.5g}") for value in y],
            "name": name,
            "meta": {"system": self.system, "kind": kind},
            "mode": "lines",
            "hovertemplate": f"%{{y:.4g}}<extra>{name}</extra>",
            **more,
            "line": {"color": self.color, "width": 1.6} | more.get("line", {}),
            "marker": {"color": self.color} | more.get("marker", {}),
        }

    def curves(self) -> Iterator[Trace]:
        for run in self.runs:
            kind, curve = "run" if len(self.runs) > 1 else "only", run.history[self.key]
            mode = "lines+markers" if len(curve) <= 120 else "lines"
            dots = {"size": 4}
            yield self.trace(kind, run.name, *zip(*curve), mode=mode, marker=dots)

    def spread(self) -> Iterator[Trace]:
        if len(self.runs) == 1:
            return
        curves = pd.DataFrame([dict(run.history[self.key]) for run in self.runs])
        curves = curves.dropna(axis=1)
        steps, low, high = curves.columns.tolist(), curves.min(), curves.max()
        yield self.trace(
            *("band", self.system, [*steps, *steps[::-1]], [*high, *low[::-1]]),
            line={"width": 0},
            fill="toself",
            fillcolor=f"{self.color}33",
            hoverinfo="skip",
        )
        ends = self.factor * np.transpose([low, high])
        yield self.trace(
            *("mean", f"{self.system}, mean of {len(self.runs)}", steps, curves.mean()),
            line={"width": 2.2},
            customdata=[f"{a:.4g} to {b:.4g}" for a, b in ends],
            hovertemplate="%{y:.4g} (%{customdata})<extra>%{fullData.name}</extra>",
        )

    def levels(self) -> Iterator[Trace]:
        """Yield the base model's level from where pseudo-labels begin, and the limits.

        Those of several runs are their means.
        """
        runs, key = self.runs, self.key
        ends = (min(r.start for r in runs), max(r.history[key][-1][0] for r in runs))
        guards = [run.guard for run in runs if run.guard and self.watched]
        bounds = [guard.bounds(key.removeprefix("train/")) for guard in guards]
        levels = {
            "base model": [run.levels[key] for run in runs if key in run.levels],
            "lowest limit": [low for low, _ in bounds],
            "highest limit": [high for _, high in bounds],
        }
        for name, values in levels.items():
            if values and math.isfinite(level := sum(values) / len(values)):
                is_base = name == "base model"
                yield self.trace(
                    *("level", f"{self.system}: {name}", ends, [level, level]),
                    line={"dash": "dashdot" if is_base else "dash", "width": 1.2},
                    mode="lines+markers" if is_base else "lines",
                    marker={"symbol": ["diamond", "line-ew"], "size": [8, 0]},
                )

    def alarms(self) -> Iterator[Trace]:
        for run in self.runs if self.watched else ():
            if at := [alarm.step for alarm in run.alarms]:
                values = np.interp(at, *zip(*run.history[self.key]))
                how = {"mode": "markers", "marker": {"symbol": "x", "size": 9}}
                yield self.trace("level", f"{run.name}: alarm", at, values, **how)

    @property
    def watched(self) -> bool:
        """Whether the guard looks at it."""
        return self.key in FIGURES["collapse"]


def draw_error_rates(
    systems: Mapping[str, Sequence[Run]], colors: Mapping[str, str]
) -> list[Chart]:
    """Draw error rates: a chart each for CER and WER, a group of bars for each set.

    The line on a bar is the 95 % confidence interval of a single training, or the
    range of several with different seeds, of which the bar is the mean.
    """
    charts = []
    for unit, title in UNITS.items():
        traces: list[Trace] = []
        charts.append({"title": f"{title} (%)", "x": "", "data": traces})
        for system, group in systems.items():
            runs = [run.scores for run in group]
            sets = list(dict.fromkeys(name for run in runs for name in run))
            bars = [bar_of([run[n][unit] for run in runs if n in run]) for n in sets]
            if not bars:
                continue
            rates, down, up = zip(*bars)
            reach = {"array": up, "arrayminus": down, "symmetric": False}
            traces.append(
                {
                    "type": "bar",
                    "x": [html.escape(name, quote=False) for name in sets],
                    "y": [float(f"{rate:.5g}") for rate in rates],
                    "name": html.escape(system, quote=False),
                    "meta": {"system": system, "kind": "only"},
                    "marker": {"color": colors[system]},
                    "error_y": {"type": "data", **reach, **ERROR_BAR},
                    "customdata": [f"{h - d:.1f} to {h + u:.1f}" for h, d, u in bars],
                    "hovertemplate": "%{y:.1f} (%{customdata})<extra>%{fullData.name}"
                    "</extra>",
                }
            )
    return charts


def bar_of(scores: Sequence[Score]) -> tuple[float, float, float]:
    """Return the height of a bar, and how far its line reaches down and up."""
    rates = [score.rate for score in scores]
    height, low, high = sum(rates) / len(rates), min(rates), max(rates)
    if len(scores) == 1:
        low, high = scores[0].low, scores[0].high
    return height, max(0.0, height - low), max(0.0, high - height)
