"""The benchmark of offline rounds: what is counted, and what is joined."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.doc_pages import ROOT

ROUND_1 = [(50, 0.9), (100, 0.5), (150, 0.4)]
ROUND_2 = [(50, 0.8), (100, 0.3), (150, 0.35)]


@pytest.fixture
def offline_rounds(monkeypatch: pytest.MonkeyPatch):
    """Import the benchmark, which finds its neighbors on the path."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import offline_rounds

    yield offline_rounds
    sys.modules.pop("offline_rounds")


def test_updates_count_to_the_best_epoch_and_to_the_first_as_good(offline_rounds):
    continuous = [(48, 0.33), (96, 0.3), (144, 0.2)]
    figures = offline_rounds.compare([ROUND_1, ROUND_2], continuous)
    assert figures == {
        "offline_cer": 0.3,
        "offline_updates": 150 + 100,
        "continuous_updates": 96,
        "ratio": 96 / 250,
    }


def test_a_training_that_is_never_as_good_has_no_ratio(offline_rounds):
    figures = offline_rounds.compare([ROUND_1, ROUND_2], [(48, 0.33)])
    assert figures["continuous_updates"] is None and figures["ratio"] is None


def test_sets_are_joined_in_order_but_for_one(offline_rounds, tmp_path: Path) -> None:
    """The recipe wants an unlabeled utterance that is not labeled."""
    for place, keys in (("labeled", "b"), ("pseudo", "ac")):
        (tmp_path / place).mkdir()
        for name in ("wav.scp", "text"):
            lines = (f"{key} {place}/{name}\n" for key in keys)
            (tmp_path / place / name).write_text("".join(lines))
    parts = (tmp_path / "labeled", tmp_path / "pseudo")
    offline_rounds.join_sets(*parts, tmp_path / "out")
    joined = (tmp_path / "out" / "text").read_text()
    assert joined == "b labeled/text\nc pseudo/text\n"
