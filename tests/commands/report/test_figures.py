"""The figures of the page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from espnet_softpl.commands.experiment import Experiment
from espnet_softpl.commands.report.figures import (
    FIGURES,
    SECTIONS,
    bar_of,
    colors_of,
    draw_curves,
    draw_error_rates,
)
from espnet_softpl.commands.report.runs import Alarm, Run
from espnet_softpl.commands.scoring import score
from espnet_softpl.monitors.statistics import ALWAYS

KEY = "train/a"


def test_colors_repeat() -> None:
    colors = colors_of(map(str, range(9)))
    assert len(set(colors.values())) == 8 and colors["0"] == colors["8"]


def test_no_key_is_in_two_panels_of_a_figure() -> None:
    for titles in FIGURES.values():
        assert titles and len(set(titles.values())) == len(titles)


def test_every_statistic_that_is_always_reported_has_a_panel() -> None:
    shown = {each.name for group in SECTIONS.values() for each in group}
    assert {each.name for each in ALWAYS} <= shown


def run(name: str, *curve: tuple[int, float], **more: Any) -> Run:
    return Run(name, Experiment(Path(name), {}), {KEY: list(curve)}, **more)


def traces(*runs: Run) -> dict[str, list[dict[str, Any]]]:
    """Draw runs of one system; return the traces by kind."""
    chart = draw_curves(KEY, "a (%)", {"one": runs, "none": []}, {"one": "#123456"})
    assert chart["title"] == "a (%)"
    assert {trace["meta"]["system"] for trace in chart["data"]} <= {"one"}
    kinds: dict[str, list[dict[str, Any]]] = {}
    for trace in chart["data"]:
        kinds.setdefault(trace["meta"]["kind"], []).append(trace)
    return kinds


def test_a_single_run_is_a_line() -> None:
    (only,) = traces(run("one", (5, 0.25), (10, 0.5)))["only"]
    assert only["x"] == [5, 10] and only["y"] == [25.0, 50.0]
    assert only["line"]["color"] == "#123456"


def test_several_seeds_have_mean_and_spread_as_far_as_all_have_come() -> None:
    runs = [run("seed1/one", (5, 0.2), (10, 0.3)), run("seed2/one", (5, 0.4))]
    kinds = traces(*runs)
    assert [trace["name"] for trace in kinds["run"]] == ["seed1/one", "seed2/one"]
    (mean,), (band,) = kinds["mean"], kinds["band"]
    assert (mean["x"], mean["y"], mean["customdata"]) == ([5], [30.0], ["20 to 40"])
    assert (band["x"], band["y"]) == ([5, 5], [40.0, 20.0])


def test_the_base_model_s_level_begins_where_pseudo_labels_do() -> None:
    runs = [
        run("seed1/one", (5, 0.2), (10, 0.3), start=4, levels={KEY: 0.1}),
        run("seed2/one", (5, 0.2), (10, 0.3), start=4, levels={KEY: 0.2}),
    ]
    (level,) = traces(*runs)["level"]
    assert (level["x"], level["y"]) == ([4, 10], [15.0, 15.0])
    assert level["name"] == "one: base model"


def test_an_alarm_is_on_the_curve_and_limits_are_drawn(monkeypatch) -> None:
    monkeypatch.setitem(FIGURES["collapse"], KEY, "a (%)")

    class Bounds:
        def bounds(self, monitor: str) -> tuple[float, float]:
            return (0.1, math.inf) if monitor == "a" else (math.nan, math.nan)

    own = run("one", (5, 0.2), (10, 0.4), guard=Bounds(), alarms=[Alarm(6, "x")])
    limit, alarm = traces(own)["level"]
    assert (limit["name"], limit["y"]) == ("one: lowest limit", [10.0, 10.0])
    assert (alarm["x"], alarm["y"], alarm["mode"]) == ([6], [24.0], "markers")


def test_a_name_is_no_html_for_plotly() -> None:
    (only,) = traces(run("<b>one", (5, 0.2)))["only"]
    assert only["name"] == "&lt;b&gt;one" and "<b>" not in only["hovertemplate"]


def test_a_bar_has_an_interval_or_the_range_of_several_seeds() -> None:
    one, two = score(["A B"], ["A C"], "word"), score(["A B"], ["A B"], "word")
    height, down, up = bar_of([one])
    assert height == pytest.approx(50.0)
    assert (height - down, height + up) == pytest.approx((one.low, one.high))
    assert bar_of([one, two]) == pytest.approx((25.0, 25.0, 25.0))


def test_error_rates_of_different_sets() -> None:
    units = {unit: score(["A B"], ["A C"], unit) for unit in ("char", "word")}
    own, other = run("a"), run("b")
    own.decodings = {"decode": {"dev": units}}
    other.decodings = {"decode": {"test": units}}
    systems = {"a": [own], "b": [other], "c": [run("c")]}
    cer, wer = draw_error_rates(systems, colors_of(systems))
    assert [trace["name"] for trace in cer["data"]] == ["a", "b"]
    assert wer["data"][1]["x"] == ["test"] and wer["data"][1]["y"] == [50.0]
