"""The page: everything that is known of some experiments, in one HTML file."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

import espnet_softpl
from espnet_softpl.commands.report.figures import (
    FIGURES,
    Line,
    Panel,
    color_of,
    draw_error_rates,
    draw_panels,
    make_panels,
)
from espnet_softpl.commands.report.runs import Run
from espnet_softpl.commands.report.tables import DROPPED, build_tables, has_cache
from espnet_softpl.commands.report.words import read_samples
from espnet_softpl.core.files import atomic_file

TEMPLATE = "page.html"

PAGE = "report.html"


class Drawn(NamedTuple):
    """A figure on the page.

    Attributes:
        source: The image as a data URI, "" if there is nothing to draw.
        alt: What it shows, for those who cannot see it.
        still: What is the same all the time and said in words instead, "" for nothing.
    """

    source: str = ""
    alt: str = ""
    still: str = ""


def write_page(runs: Sequence[Run], out: Path) -> Path:
    """Write the page and its figures.

    Args:
        runs: The experiments, at least one.
        out: Directory to write to; it is made.

    Returns:
        The page. It has all images in it; whatever comes from files (names,
        transcripts, settings) is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template(TEMPLATE).render(
        runs=runs,
        colors=_colors(runs),
        tables=build_tables(runs),
        figures=draw_figures(runs, out),
        samples=read_samples(runs),
        title=f"Pseudo-labeling report: {', '.join(run.name for run in runs)}",
        written=datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        version=espnet_softpl.__version__,
    )
    page = out / PAGE
    with atomic_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def _colors(runs: Sequence[Run]) -> dict[str, str]:
    """Return the color of each experiment by name."""
    return {run.name: color_of(index) for index, run in enumerate(runs)}


def draw_figures(runs: Sequence[Run], out: Path) -> dict[str, Drawn]:
    """Draw all figures of `FIGURES`, and error rates if there are any.

    Args:
        runs: The experiments.
        out: Directory of the PNG files.
    """
    colors = _colors(runs)
    figures = {}
    for name, titles in FIGURES.items():
        if name == "pl_quality":
            dropped = sorted(k for run in runs for k in run.history if DROPPED in k)
            titles = titles | {
                key: f"labels dropped by {key.removeprefix(DROPPED)} (%)"
                for key in dropped
            }
        # Without a cache the age is 0.
        shown = [run for run in runs if name != "cache" or has_cache(run)]
        lines = [Line(run.name, colors[run.name], run.history) for run in shown]
        panels = make_panels(titles, lines)
        if name == "collapse":
            _add_guards(panels, runs)
        figures[name] = _draw(
            [panel for panel in panels.values() if panel.curves], out / f"{name}.png"
        )
    decoded = [run.name for run in runs if run.decodings]
    if decoded:
        path = out / "error_rates.png"
        # Of several decodings of one set, the last.
        systems = {
            run.name: [{d.name: d.scores for d in run.decodings}] for run in runs
        }
        draw_error_rates(systems, path)
        alt = f"Bars of CER and WER with intervals, by set, of {', '.join(decoded)}"
        figures["error_rates"] = Drawn(_inline(path), alt)
    return figures


def _add_guards(panels: dict[str, Panel], runs: Sequence[Run]) -> None:
    """Add the base model's levels, the limits and the alarms of the guards."""
    colors = _colors(runs)
    for key, panel in panels.items():
        monitor = key.removeprefix("train/")
        for run in runs:
            color = colors[run.name]
            if run.guard is not None:
                low, high = run.guard.bounds(monitor)
                levels = (run.guard.reference(monitor), "-."), (low, "--"), (high, "--")
                panel.levels += [(level, color, style) for level, style in levels]
            panel.marks += [(alarm.step, color) for alarm in run.alarms]


def _draw(panels: Sequence[Panel], path: Path) -> Drawn:
    """Draw what changes or has limits, and say the rest in words."""
    drawn = [p for p in panels if p.constant is None or p.levels]
    still = ", ".join(f"{p.title}: {p.constant:g}" for p in panels if p not in drawn)
    if not drawn:
        return Drawn(still=still)
    draw_panels(drawn, path)
    names = dict.fromkeys(name for panel in drawn for name, _, _ in panel.curves)
    titles = ", ".join(panel.title for panel in drawn)
    alt = f"Curves over mini-batches of {', '.join(names)}: {titles}"
    return Drawn(_inline(path), alt, still)


def _inline(path: Path) -> str:
    """Return an image as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
