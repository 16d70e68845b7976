"""The page: everything that is known of some experiments, in one HTML file."""

from __future__ import annotations

import base64
import collections
import datetime
import gzip
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from plotly.offline import get_plotlyjs

import espnet_softpl
from espnet_softpl.commands.report.figures import (
    FIGURES,
    SECTIONS,
    Chart,
    colors_of,
    draw_curves,
    draw_error_rates,
)
from espnet_softpl.commands.report.runs import Run
from espnet_softpl.commands.report.settings import compare_settings
from espnet_softpl.commands.report.tables import (
    by_system,
    comparison_table,
    error_table,
    experiment_table,
    sample_table,
)
from espnet_softpl.commands.report.words import compare, error_rate, thin
from espnet_softpl.commands.scoring import Score
from espnet_softpl.core.files import atomic_write
from espnet_softpl.data.audio import READ_ERRORS
from espnet_softpl.monitors.statistics import DROPPED, dropped_by
from espnet_softpl.training.schedule import Schedule


class Figure(NamedTuple):
    """Charts of a section of the page."""

    charts: Sequence[Chart] = ()
    still: str = ""  # What is the same all the time, in words instead; or "".


def write_page(runs: Sequence[Run], out: Path, audio: bool = False) -> Path:
    """Write the page of at least one experiment; `audio` puts that of samples in it.

    Returns:
        The page. It has all charts in it; whatever comes from files (names,
        transcripts, settings) is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    systems = by_system(runs)
    colors = colors_of(systems)
    prefix = f"train/{dropped_by('')}"  # Before a filter's name.
    dropped = {k for r in runs for k in r.history if k.startswith(prefix)}
    filters = {
        key: DROPPED.title.replace("<filter>", key.removeprefix(prefix))
        for key in sorted(dropped)
    }
    panels = {**FIGURES, "pl_quality": FIGURES["pl_quality"] | filters}
    differing, pl_settings = compare_settings(runs)
    figures = draw_figures(systems, panels, colors)
    text = environment.get_template("page.html").render(
        title=f"Pseudo-labeling report: {', '.join(systems)}",
        written=datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        version=espnet_softpl.__version__,
        runs=runs,
        systems=systems,
        schedule=Schedule,
        colors=colors | {run.name: colors[run.system] for run in runs},
        panels=panels,
        figures=figures,
        charts={name: figure.charts for name, figure in figures.items()},
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode())).decode(),
        monitors=SECTIONS["collapse"],
        experiments=experiment_table(runs),
        errors=error_table(runs),
        comparisons=comparison_table(runs),
        worst=sample_table(runs),
        samples=sorted({row["utterance"] for run in runs for row in run.samples}),
        audio=embed_audio(runs) if audio else {},
        truths=collections.ChainMap(*(run.truths for run in runs)),
        compare=compare,
        thin=thin,
        error_rate=error_rate,
        differing=differing,
        pl_settings=pl_settings,
        isfinite=math.isfinite,
        is_score=lambda cell: isinstance(cell, Score),
    )
    with atomic_write(out / "report.html") as page:
        page.write(text)
    return out / "report.html"


def embed_audio(runs: Sequence[Run]) -> dict[str, str]:
    """Return the audio of samples as data URIs, by utterance; a failure is noted."""
    embedded: dict[str, str] = {}
    for run in runs:
        for key, recording in run.recordings.items():
            try:
                embedded[key] = embedded.get(key) or recording.embed()
            except READ_ERRORS as error:
                run.notes.append(f"The audio of {key} cannot be read: {error}")
    return embedded


def draw_figures(
    systems: Mapping[str, Sequence[Run]],
    panels: Mapping[str, Mapping[str, str]],
    colors: Mapping[str, str],
) -> dict[str, Figure]:
    """Draw the charts of each figure, and of error rates if something is decoded."""
    figures = {}
    for name, titles in panels.items():
        # Without a cache the age is 0.
        shown = {
            system: [run for run in group if run.cached or name != "cache"]
            for system, group in systems.items()
        }
        figures[name] = _draw(titles, shown, colors)
    if any(run.scores for group in systems.values() for run in group):
        figures["error_rates"] = Figure(draw_error_rates(systems, colors))
    return figures


def _draw(
    panels: Mapping[str, str],
    systems: Mapping[str, Sequence[Run]],
    colors: Mapping[str, str],
) -> Figure:
    """Draw what has been reported and changes or has limits; say the rest in words."""
    drawn, still = [], []
    for key, title in panels.items():
        runs = [run for group in systems.values() for run in group]
        curves = [run.history[key] for run in runs if key in run.history]
        values = {value for curve in curves for _, value in curve}
        several = any(len(curve) > 1 for curve in curves)
        if len(values) == 1 and several and key not in FIGURES["collapse"]:
            factor = 100.0 if "(%)" in title else 1.0
            still.append(f"{title}: {factor * values.pop():g}")
        elif curves:
            drawn.append(draw_curves(key, title, systems, colors))
    return Figure(drawn, ", ".join(still))
