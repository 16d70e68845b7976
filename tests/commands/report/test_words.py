"""Labels over time: what changed, and what is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from espnet_softpl.commands.report.words import (
    Word,
    compare,
    error_rate,
    thin,
)
from tests.support.report_pages import run_report


def test_words_are_compared_with_the_truth_and_with_before() -> None:
    assert compare("A X C D", "A B C", "A B C D") == [
        Word("A", "right"),
        Word("B", "gone", True),
        Word("X", "wrong", True, "B"),
        Word("C", "right"),
        Word("D", "extra"),
    ]
    assert compare("A", "A B", "A B") == [
        Word("A", "right"),
        Word("B", "missing", True),
    ]
    assert compare("A B", None, None) == [Word("A", "plain"), Word("B", "plain")]
    assert compare("", "A", "") == [Word("A", "missing")]
    assert compare("", None, "") == []


def test_a_label_has_a_wer_if_the_truth_has_words() -> None:
    assert error_rate("A X C", "A B") == pytest.approx(100.0)
    assert error_rate("A", None) is None and error_rate("A", "") is None


def test_rows_are_thinned_evenly() -> None:
    assert thin(range(11), 6) == [0, 2, 4, 6, 8, 10]
    assert thin(range(3), 6) == [0, 1, 2]
    assert thin(range(100), 4) == [0, 33, 66, 99]


@pytest.mark.slow
def test_labels_over_time(runs, tmp_path) -> None:
    page = run_report(runs["cached"], out=tmp_path / "out")
    rows = [
        json.loads(line)
        for file in sorted((runs["cached"] / "pl_samples").iterdir())
        for line in file.read_text().splitlines()
    ]
    assert {file.name for file in (runs["cached"] / "pl_samples").iterdir()} == {
        "1epoch.rank0.jsonl",
        "2epoch.rank0.jsonl",
    }
    assert any(row["made"] < row["step"] for row in rows)  # From the cache.
    assert all(row["weight"] == 1.0 and row["dropped_by"] == "" for row in rows)
    for key in {row["utterance"] for row in rows}:
        assert f"{key}: its labels over time." in page.words
    truths = Path(page_truths(runs["cached"])).read_text().splitlines()
    key, truth = next(t.split(" ", 1) for t in truths if t.split()[0] in page.words)
    assert f"true {truth} {key}: its labels" in page.words


def page_truths(exp: Path) -> str:
    return yaml.safe_load((exp / "config.yaml").read_text())["unlabeled_oracle_text"]
