"""The page: everything that is known of some experiments, in one HTML file."""

from __future__ import annotations

import base64
import collections
import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

import espnet_softpl
from espnet_softpl.commands.report.figures import (
    FIGURES,
    SECTIONS,
    Line,
    colors_of,
    draw_curves,
    draw_error_rates,
)
from espnet_softpl.commands.report.runs import Run
from espnet_softpl.commands.report.settings import compare_settings
from espnet_softpl.commands.report.words import compare, thin, word_error_rate
from espnet_softpl.core.files import atomic_write
from espnet_softpl.monitors.statistics import DROPPED, dropped_by
from espnet_softpl.training.schedule import Schedule


class Drawn(NamedTuple):
    """A figure on the page; "" is for nothing."""

    source: str = ""  # The image as a data URI.
    alt: str = ""  # What it shows, for those who cannot see it.
    still: str = ""  # What is the same all the time, in words instead.


def write_page(runs: Sequence[Run], out: Path) -> Path:
    """Write the page of at least one experiment, and its figures beside it.

    Returns:
        The page. It has all images in it; whatever comes from files (names,
        transcripts, settings) is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    colors = colors_of(run.name for run in runs)
    prefix = f"train/{dropped_by('')}"  # Before a filter's name.
    dropped = {k for r in runs for k in r.history if k.startswith(prefix)}
    filters = {
        key: DROPPED.title.replace("<filter>", key.removeprefix(prefix))
        for key in sorted(dropped)
    }
    panels = {**FIGURES, "pl_quality": FIGURES["pl_quality"] | filters}
    sets = dict.fromkeys(n for r in runs for d in r.decodings.values() for n in d)
    differing, pl_settings = compare_settings(runs)
    text = environment.get_template("page.html").render(
        title=f"Pseudo-labeling report: {', '.join(run.name for run in runs)}",
        written=datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        version=espnet_softpl.__version__,
        runs=runs,
        schedule=Schedule,
        colors=colors,
        panels=panels,
        figures=draw_figures(runs, panels, colors, out),
        monitors=SECTIONS["collapse"],
        rates={
            f"{name} {title} %": (name, unit)
            for name in sets
            for unit, title in (("char", "CER"), ("word", "WER"))
        },
        samples=sorted({row["utterance"] for run in runs for row in run.samples}),
        truths=collections.ChainMap(*(run.truths for run in runs)),
        compare=compare,
        thin=thin,
        word_error_rate=word_error_rate,
        differing=differing,
        pl_settings=pl_settings,
        isfinite=math.isfinite,
    )
    with atomic_write(out / "report.html") as page:
        page.write(text)
    return out / "report.html"


def draw_figures(
    runs: Sequence[Run],
    panels: Mapping[str, Mapping[str, str]],
    colors: Mapping[str, str],
    out: Path,
) -> dict[str, Drawn]:
    """Draw the panels of each figure as a PNG file, and error rates if there are."""
    figures = {}
    for name, titles in panels.items():
        lines = [
            Line(run.name, colors[run.name], run.history, run.guard, run.alarms)
            for run in runs
            if run.cached or name != "cache"  # Without a cache the age is 0.
        ]
        figures[name] = _draw(titles, lines, out / f"{name}.png")
    # Of several decodings of one set, the last.
    scores = {
        run.name: [dict(collections.ChainMap(*reversed(run.decodings.values())))]
        for run in runs
        if run.decodings
    }
    if scores:
        draw_error_rates(scores, colors, out / "error_rates.png")
        alt = f"Bars of CER and WER with intervals, by set, of {', '.join(scores)}"
        figures["error_rates"] = Drawn(_inline(out / "error_rates.png"), alt)
    return figures


def _draw(panels: Mapping[str, str], lines: Sequence[Line], path: Path) -> Drawn:
    """Draw what has been reported and changes or has limits; say the rest in words."""
    drawn, still = {}, []
    for key, title in panels.items():
        curves = [line.history[key] for line in lines if key in line.history]
        values = {value for curve in curves for _, value in curve}
        several = any(len(curve) > 1 for curve in curves)
        if len(values) == 1 and several and key not in FIGURES["collapse"]:
            factor = 100.0 if "(%)" in title else 1.0
            still.append(f"{title}: {factor * values.pop():g}")
        elif curves:
            drawn[key] = title
    if not drawn:
        return Drawn(still=", ".join(still))
    draw_curves(drawn, lines, path)
    names = ", ".join(line.name for line in lines if drawn.keys() & line.history)
    alt = f"Curves over mini-batches of {names}: {', '.join(drawn.values())}"
    return Drawn(_inline(path), alt, ", ".join(still))


def _inline(path: Path) -> str:
    """Return an image as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
