"""Every statistic has words on the page."""

from __future__ import annotations

from espnet_softpl.commands.report.meaning import SECTIONS, titles
from espnet_softpl.monitors.guard import MONITORS
from espnet_softpl.training.model import PL_STATISTICS


def test_every_statistic_has_words() -> None:
    named = {statistic.name for group in SECTIONS.values() for statistic in group}
    assert set(PL_STATISTICS) <= named


def test_the_guard_s_monitors_are_the_collapse_section() -> None:
    assert set(titles("collapse")) == {f"train/{name}" for name in MONITORS}
