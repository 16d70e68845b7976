"""The page: everything that is known of some experiments, in one HTML file."""

from __future__ import annotations

import base64
import collections
import datetime
import gzip
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

import espnet_softpl
from espnet_softpl.commands.report import figures, samples, tables
from espnet_softpl.commands.report.runs import Run
from espnet_softpl.commands.scoring import Score
from espnet_softpl.core.files import atomic_write
from espnet_softpl.data.audio import READ_ERRORS
from espnet_softpl.monitors.statistics import DROPPED, dropped_by
from espnet_softpl.training.schedule import Schedule

# Of a section of the page: `charts`, and `still`, what is the same all the time, in
# words instead.
Figure = dict[str, Any]


def write_page(runs: Sequence[Run], out: Path, audio: bool = False) -> Path:
    """Write the page of at least one experiment; `audio` puts that of samples in it.

    It has all charts in it; whatever comes from files (names, transcripts, settings) is
    escaped. Returns the page.
    """
    from plotly.offline import get_plotlyjs  # An extra.

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    systems = tables.by_system(runs)
    colors = figures.colors_of(systems)
    prefix = f"train/{dropped_by('')}"  # Before a filter's name.
    dropped = {k for r in runs for k in r.history if k.startswith(prefix)}
    filters = {
        key: DROPPED.title.replace("<filter>", key.removeprefix(prefix))
        for key in sorted(dropped)
    }
    panels = {**figures.FIGURES}
    panels["pl_quality"] = panels["pl_quality"] | filters
    drawn = draw_figures(systems, panels, colors)
    text = environment.get_template("page.html").render(
        title=f"Pseudo-labeling report: {', '.join(systems)}",
        written=datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        version=espnet_softpl.__version__,
        runs=runs,
        systems=systems,
        schedule=Schedule,
        colors=colors | {run.name: colors[run.system] for run in runs},
        panels=panels,
        figures=drawn,
        charts={name: figure["charts"] for name, figure in drawn.items()},
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode())).decode(),
        monitors=figures.SECTIONS["collapse"],
        utterances=sorted({row["utterance"] for run in runs for row in run.samples}),
        audio=embed_audio(runs) if audio else {},
        truths=collections.ChainMap(*(run.truths for run in runs)),
        tables=tables,
        labels=samples,
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
    drawn = {}
    for name, titles in panels.items():
        # Without a cache the age is 0.
        shown = {
            system: [run for run in group if run.cached or name != "cache"]
            for system, group in systems.items()
        }
        drawn[name] = _draw(titles, shown, colors)
    if any(run.scores for group in systems.values() for run in group):
        charts = figures.draw_error_rates(systems, colors)
        drawn["error_rates"] = {"charts": charts, "still": ""}
    return drawn


def _draw(
    panels: Mapping[str, str],
    systems: Mapping[str, Sequence[Run]],
    colors: Mapping[str, str],
) -> Figure:
    """Draw what has been reported and changes or has limits; say the rest in words."""
    charts, still = [], []
    for key, title in panels.items():
        runs = [run for group in systems.values() for run in group]
        curves = [run.history[key] for run in runs if key in run.history]
        values = {value for curve in curves for _, value in curve}
        several = any(len(curve) > 1 for curve in curves)
        if len(values) == 1 and several and key not in figures.FIGURES["collapse"]:
            still.append(f"{title}: {figures.factor_of(title) * values.pop():g}")
        elif curves:
            charts.append(figures.draw_curves(key, title, systems, colors))
    return {"charts": charts, "still": ", ".join(still)}
