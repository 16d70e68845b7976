"""References by set, and scores of what was recognized."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from espnet_softpl.commands.scoring import (
    compare_errors,
    load_references,
    score_sets,
    sign_flip_p,
    to_units,
)
from espnet_softpl.core.errors import UserError


@pytest.fixture
def org(tmp_path: Path) -> Path:
    """One dev set and two test sets; an utterance of silence."""
    for part, sets in (("dev", ["clean"]), ("test", ["clean", "other"])):
        (tmp_path / part).mkdir()
        ids = [f"{part}-{name}" for name in sets]
        text = "".join(f"{key} A B\n" for key in ids) + f"{part}-silence\n"
        utt2set = "".join(f"{key} {key.split('-')[1]}\n" for key in ids)
        (tmp_path / part / "text").write_text(text)
        (tmp_path / part / "utt2set").write_text(f"{utt2set}{part}-silence clean\n")
    return tmp_path


def test_a_part_with_one_set_has_its_own_name(org) -> None:
    sets = load_references(org)
    assert sets == {
        "dev": {"dev-clean": "A B", "dev-silence": ""},
        "clean": {"test-clean": "A B", "test-silence": ""},
        "other": {"test-other": "A B"},
    }
    (org / "test/utt2set").unlink()
    with pytest.raises(UserError, match="test/utt2set does not exist"):
        load_references(org)


def test_every_set_is_scored_in_both_units(org) -> None:
    sets = load_references(org)
    hypotheses = {key: "A" for texts in sets.values() for key in texts}
    scores = score_sets(sets, hypotheses)
    assert scores.keys() == sets.keys()
    words, chars = scores["dev"]["word"], scores["dev"]["char"]
    assert (words.reference, words.deletions, words.insertions) == (2, 1, 1)
    assert (chars.reference, chars.deletions, chars.insertions) == (3, 2, 1)
    assert words.rate == 100.0
    assert scores["other"]["word"].low == scores["other"]["word"].high == 50.0
    del hypotheses["test-other"]
    with pytest.raises(UserError, match="1 utterances of other were not decoded"):
        score_sets(sets, hypotheses)


def test_a_space_is_a_character() -> None:
    assert to_units("AB  C", "char") == ["A", "B", " ", "C"]
    assert to_units("AB  C", "word") == ["AB", "C"]


def test_p_counts_all_signs() -> None:
    # With all six on one side, two of the 64 choices are as far from 0.
    assert sign_flip_p([-1.0, -2.0, -1.5, -0.5, -3.0, -1.0]) == 2 / 64
    # +1 -1 and -1 +1 give 0, all four are at least as far.
    assert sign_flip_p([1.0, -1.0]) == 1.0
    # |3 - 1| = 2 is reached by all but none below: 2, 4, 4, 2.
    assert sign_flip_p([3.0, -1.0]) == 1.0


def test_the_paired_bootstrap_sees_what_is_the_same_on_each_utterance() -> None:
    better = compare_errors([[2, 4, 1]], [[3, 5, 2]], 100)
    assert better.difference == better.low == better.high == -3.0
    assert better.relative == pytest.approx(-30.0)
    assert better.p_paired == pytest.approx(2 / 10001) and better.p == 1.0
    same = compare_errors([[2, 0]], [[0, 2]], 100)
    assert same.difference == 0.0 and same.p_paired == 1.0
    assert math.isnan(compare_errors([[1]], [[0]], 100).relative)
