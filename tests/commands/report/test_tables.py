"""The tables of the page."""

from __future__ import annotations

from pathlib import Path

import torch

from espnet_softpl.commands.experiment import Experiment
from espnet_softpl.commands.report.runs import Run
from espnet_softpl.commands.report.tables import differing_settings, pl_settings
from tests.support.report_pages import run_report


def test_alarms_and_limits_are_shown(runs, tmp_path) -> None:
    page = run_report(runs["alarmed"], runs["cached"], out=tmp_path / "out")
    assert page.row("alarmed", "hard_ctc")[8] == "1"
    assert "alarmed: 1 alarm." in page.words
    assert "Collapse guard: alarm 1 at step" in page.words
    assert "more labeled_steps" in page.words  # The advice of the report.
    state = torch.load(runs["alarmed"] / "pl_state/2epoch.rank0.pth", weights_only=True)
    track = state["guard"]["tracks"]["pl_frame_entropy"]
    row = page.row("pl_frame_entropy mean entropy of a frame (nats)")
    assert row[2].startswith(f"{track['reference']:.3g} → {track['level']:.3g}")
    assert "BEYOND ITS LIMIT, limit: at most 1e-06" in row[2]
    # Of the other one the guard has not seen enough yet.
    assert row[3].startswith("– not known yet")


def test_settings_that_differ() -> None:
    one = {"a": 1, "b": {"c": 2, "d": [1]}, "e": {}, "g": 0}
    two = {"a": 1, "b": {"c": 3, "d": [1]}, "f": None}
    runs = [
        Run(name, Experiment(Path(name), settings | ours))
        for name, settings, ours in (
            ("one", one, {"pl_filter": "none", "pl_criterion": "soft_ce"}),
            ("two", two, {"pl_filter": "none", "pl_criterion": "hard_ctc"}),
        )
    ]
    frame = differing_settings(runs)
    assert frame.to_dict("split") == {
        "index": ["b.c", "g"],
        "columns": ["one", "two"],
        "data": [["2", "3"], ["0", "–"]],
    }
    frame = pl_settings(runs)
    assert list(frame.loc["pl_filter"]) == ['"none"', '"none"']
    assert [str(key) for key in frame.index][0].startswith(
        '<span class="">pl_criterion <small>differs'
    )
    assert differing_settings(runs[:1]).empty and pl_settings([]).empty
