"""The page: everything that is known of some experiments, in one HTML file."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2  # torch depends on it.

import espnet_softpl
from espnet_softpl.commands.report import comparisons, sections
from espnet_softpl.commands.report.blocks import Picture, Section
from espnet_softpl.commands.report.experiment import (
    Experiment,
    check_experiment,
    names_of,
    read_experiment,
)
from espnet_softpl.core.files import atomic_file

TEMPLATE = "page.html"


PAGE = "report.html"


def read_experiments(
    directories: Sequence[Path], references: Mapping[str, Path]
) -> list[Experiment]:
    """Read experiments.

    Args:
        directories: Their directories.
        references: File of true transcripts by set, where the user named some.

    Returns:
        The experiments, in the same order.

    Raises:
        UserError: A directory is no experiment, or named twice, or a file in
            `references` cannot be read.
    """
    for directory in directories:
        check_experiment(directory)
    places = [directory.resolve() for directory in directories]
    names = names_of(places)
    return [read_experiment(p, name, references) for p, name in zip(places, names)]


def build_sections(runs: Sequence[Experiment], out: Path) -> list[Section]:
    """Draw the figures, and return the sections of the page.

    Args:
        runs: The experiments, at least one.
        out: Directory for the PNG files.
    """
    parts = [sections.summary(runs), sections.error_rates(runs, out)]
    if any(run.pseudo_labels for run in runs):
        parts += [sections.labels(runs, out), sections.monitors(runs, out)]
    parts += [sections.losses(runs, out), sections.schedule(runs, out)]
    if any(run.pseudo_labels for run in runs):
        parts += [sections.cache(runs, out), comparisons.samples(runs)]
    return [*parts, comparisons.settings(runs)]


def render(parts: Sequence[Section], title: str, out: Path) -> str:
    """Return the page as HTML, with all images in it.

    Args:
        parts: Its sections.
        title: Its title.
        out: Directory of the PNG files.

    Returns:
        HTML. Whatever comes from files (names, transcripts, settings) is escaped.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    images = {
        block.file: _inline(out / block.file)
        for part in parts
        for block in part.blocks
        if isinstance(block, Picture)
    }
    return environment.get_template(TEMPLATE).render(
        sections=parts,
        title=title,
        images=images,
        written=datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        version=espnet_softpl.__version__,
    )


def _inline(path: Path) -> str:
    """Return an image as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def write_page(runs: Sequence[Experiment], out: Path) -> Path:
    """Write the page and its figures.

    Args:
        runs: The experiments, at least one.
        out: Directory to write to; it is made.

    Returns:
        The page.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts = build_sections(runs, out)
    names = ", ".join(run.name for run in runs)
    text = render(parts, f"Pseudo-labeling report: {names}", out)
    page = out / PAGE
    with atomic_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page
