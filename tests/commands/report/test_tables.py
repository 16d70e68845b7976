"""Tables of the report: means over seeds, comparisons, the least sure labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espnet_softpl.commands.experiment import Experiment
from espnet_softpl.commands.report.runs import Run
from espnet_softpl.commands.report.samples import Recording
from espnet_softpl.commands.report.tables import (
    ALL_PAIRS,
    by_system,
    compare_settings,
    comparison_table,
    error_table,
    sample_table,
)
from espnet_softpl.commands.scoring import score_sets

TRUTHS = {"test": {"a": "A B C D", "b": "A B"}}


def run(name: str, *texts: str, config: dict[str, Any] | None = None) -> Run:
    """Make a run that has recognized the utterances a and b."""
    own = Run(name, Experiment(Path("exp") / name, config or {}))
    if texts:
        scores = score_sets(TRUTHS, dict(zip("ab", texts, strict=True)))
        own.decodings = {"decode": scores}
    return own


@pytest.mark.parametrize(
    ("name", "system", "seed"),
    [
        ("seed1/hard_ctc", "hard_ctc", "1"),
        ("exp/seed12/hard", "exp/hard", "12"),
        ("hard_ctc_seed2", "hard_ctc", "2"),
        ("hard-seed-3", "hard", "3"),
        ("seed1", "seed1", "1"),
        ("seedling2", "seedling2", "7"),
    ],
)
def test_a_name_tells_system_and_seed(name: str, system: str, seed: str) -> None:
    own = run(name, config={"seed": 7})
    assert (own.system, own.seed) == (system, seed)


def test_errors_have_means_over_seeds() -> None:
    runs = [run("seed1/one", "A B C D", "A B"), run("seed2/one", "A B C", "A")]
    table = error_table([*runs, run("two")])
    assert list(by_system(runs)) == ["one"]
    assert list(table["seed"]) == ["1", "2", "mean"]
    assert table["test WER %"].iloc[1].rate == pytest.approx(100 / 3)
    assert table["test WER %"].iloc[2] == "16.7 (0.0 to 33.3)"
    assert error_table([run("two")]).empty


def test_systems_are_compared_by_seed() -> None:
    runs = [
        run("seed1/base", "A B", "A B"),
        run("seed2/base", "A", "A B"),
        run("seed1/own", "A B C", "A B"),
        run("seed3/own", "X", "X"),
    ]
    table = comparison_table(runs)
    row = table[table["on"] == "test WER"].iloc[0]
    assert (row["system"], row["compared with"], row["seeds"]) == ("own", "base", 1)
    assert row["difference"] == "-16.67" and row["relative %"] == "-50.0"
    assert row["p over seeds"] == "–"
    # Seeds of single runs need not be the same.
    assert len(comparison_table([runs[0], runs[3]])) == 2
    assert comparison_table(runs[:2]).empty


def test_many_systems_are_compared_with_the_first() -> None:
    runs = [run(f"system{n}", "A B C D", "A") for n in range(ALL_PAIRS + 1)]
    assert set(comparison_table(runs)["compared with"]) == {"system0"}
    assert len(comparison_table(runs)) == 2 * ALL_PAIRS
    assert len(comparison_table(runs[:-1])) == ALL_PAIRS * (ALL_PAIRS - 1)


def test_another_reference_is_not_compared() -> None:
    own, other = run("one", "A B", "A B"), run("two")
    other.decodings = {"decode": score_sets({"test": {"a": "A"}}, {"a": "A"})}
    assert comparison_table([own, other]).empty


def test_the_least_sure_label_is_first() -> None:
    own = run("one")
    rows = [("a", "A B", 0.9), ("a", "A C", 0.3), ("b", "A", 0.5), ("c", "", None)]
    own.samples = [
        {"utterance": u, "label": t, "student": "A", "confidence": c, "weight": 1.0}
        for u, t, c in rows
    ]
    own.truths = {"a": "A B"}
    own.recordings = {"a": Recording("a.wav", "sound", 0.5)}
    table = sample_table([own])
    assert list(table["utterance"]) == ["a", "b", "c"]
    first = table.iloc[0]
    assert first["WER %"] == 50.0 and first["letters per second"] == 4.0
    assert first["disagreement %"] == pytest.approx(200 / 3)
    assert table.iloc[2]["label"] == "(empty)"
    assert sample_table([run("two")]).empty


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
