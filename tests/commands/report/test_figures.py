"""The figures of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet_softpl.commands.report.figures import (
    FIGURES,
    SECTIONS,
    Line,
    bar_of,
    colors_of,
    draw_curves,
    draw_error_rates,
)
from espnet_softpl.commands.scoring import score
from espnet_softpl.monitors.statistics import ALWAYS

PNG = b"\x89PNG\r\n\x1a\n"


def test_colors_repeat() -> None:
    colors = colors_of(map(str, range(9)))
    assert len(set(colors.values())) == 8 and colors["0"] == colors["8"]


def test_no_key_is_in_two_panels_of_a_figure() -> None:
    for titles in FIGURES.values():
        assert titles and len(set(titles.values())) == len(titles)


def test_every_statistic_that_is_always_reported_has_a_panel() -> None:
    shown = {each.name for group in SECTIONS.values() for each in group}
    assert {each.name for each in ALWAYS} <= shown


def test_a_picture_is_drawn_even_without_data(tmp_path: Path) -> None:
    history = {"train/a": [(5, 0.25), (10, 0.5)]}
    lines = [Line("one", "red", history, alarms=[(7, "x")]), Line("two", "blue", {})]
    titles = {"train/a": "a (%)", "train/b": "b"}
    for name, shown in (("curves", lines), ("nothing", [])):
        draw_curves(titles, shown, tmp_path / "made" / f"{name}.png")
        assert (tmp_path / "made" / f"{name}.png").read_bytes()[:8] == PNG


def test_a_bar_has_an_interval_or_the_range_of_several_seeds() -> None:
    one, two = score(["A B"], ["A C"], "word"), score(["A B"], ["A B"], "word")
    height, down, up = bar_of([one])
    assert height == pytest.approx(50.0)
    assert (height - down, height + up) == pytest.approx((one.low, one.high))
    assert bar_of([one, two]) == pytest.approx((25.0, 25.0, 25.0))


def test_error_rates_of_different_sets(tmp_path: Path) -> None:
    units = {unit: score(["A B"], ["A C"], unit) for unit in ("char", "word")}
    systems = {"a": [{"dev": units}], "b": [{"test": units}, {}]}
    draw_error_rates(systems, colors_of(systems), tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes()[:8] == PNG
