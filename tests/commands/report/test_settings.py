"""Settings of experiments, side by side."""

from __future__ import annotations

from pathlib import Path

from espnet_softpl.commands.experiment import Experiment
from espnet_softpl.commands.report.runs import Run
from espnet_softpl.commands.report.settings import compare_settings


def test_settings_that_differ() -> None:
    stock = {"a": 1, "b": {"c": 2, "d": [1]}, "e": {}, "g": 0, "output_dir": "x"}
    one = {**stock, "pl_filter": "none", "pl_criterion": "soft_ce"}
    two = {"a": 1, "b": {"c": 3, "d": [1]}, "f": None, "dist_rank": 1}
    two |= {"pl_filter": "none", "pl_criterion": "hard_ctc", "pl_x_conf": {"y": "z"}}
    configs = {"stock": stock, "one": one, "two": two, "no config yet": {}}
    runs = [Run(n, Experiment(Path(n), config)) for n, config in configs.items()]
    differing, ours = compare_settings(runs)
    assert differing.fillna("-").to_dict("index") == {
        "b.c": {"stock": "2", "one": "2", "two": "3"},
        "g": {"stock": "0", "one": "0", "two": "-"},
    }
    assert ours.fillna("-").to_dict("index") == {
        "pl_criterion": {"one": '"soft_ce"', "two": '"hard_ctc"'},
        "pl_filter": {"one": '"none"', "two": '"none"'},
        "pl_x_conf.y": {"one": "-", "two": '"z"'},
    }
    for few in (runs[:1], runs[3:]):
        assert all(frame.empty for frame in compare_settings(few))
