"""The figures of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet_softpl.commands.report.figures import (
    Line,
    color_of,
    draw_error_rates,
    draw_panels,
    make_panels,
)
from espnet_softpl.commands.report.figures import _bar as bar
from espnet_softpl.commands.scoring import score

PNG = b"\x89PNG\r\n\x1a\n"


def test_panels_are_in_percent_if_their_title_says_so() -> None:
    titles = {"train/a": "errors (%)", "train/b": "share", "train/c": "nothing"}
    history = {"train/a": [(5, 0.25), (10, 0.5)], "train/b": [(5, 0.5), (10, 0.5)]}
    lines = [Line("one", color_of(0), history), Line("two", color_of(1), {})]
    panels = make_panels(titles, lines)
    assert panels["train/a"].curves == [("one", "#0072B2", [(5, 25.0), (10, 50.0)])]
    assert panels["train/c"].curves == []
    assert panels["train/a"].constant is None and panels["train/c"].constant is None
    assert panels["train/b"].constant == 0.5
    # After one epoch nobody knows whether it is going to change.
    short = Line("one", "red", {"train/b": [(5, 0.5)]})
    assert make_panels(titles, [short])["train/b"].constant is None


def test_a_picture_is_drawn_even_without_data(tmp_path: Path) -> None:
    panels = make_panels({"train/a": "a", "train/b": "b"}, [])
    draw_panels(list(panels.values()), tmp_path / "made" / "panels.png")
    assert (tmp_path / "made" / "panels.png").read_bytes()[:8] == PNG


def test_a_bar_has_an_interval_or_the_range_of_several_seeds() -> None:
    one, two = score(["A B"], ["A C"], "word"), score(["A B"], ["A B"], "word")
    height, down, up = bar([one])
    assert height == pytest.approx(50.0)
    assert (height - down, height + up) == pytest.approx((one.low, one.high))
    assert bar([one, two]) == pytest.approx((25.0, 25.0, 25.0))


def test_error_rates_of_other_sets_and_of_none(tmp_path: Path) -> None:
    units = {unit: score(["A B"], ["A C"], unit) for unit in ("char", "word")}
    systems = {"a": [{"dev": units}], "b": [{"test": units}, {}], "c": [{}]}
    draw_error_rates(systems, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes()[:8] == PNG
