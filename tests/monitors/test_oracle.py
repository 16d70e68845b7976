"""Error rates of pseudo-labels, against values computed by hand."""

from __future__ import annotations

import math

import pytest

from espnet_softpl.monitors.oracle import Oracle, error_rates


def test_error_rates_by_hand() -> None:
    wer, cer = error_rates(["THE DOG", "A"], ["THE DOT", ""])
    assert wer == pytest.approx(2 / 3) and cer == pytest.approx(2 / 8)
    assert all(math.isnan(rate) for rate in error_rates([], []))


def test_oracle_scores_by_utterance() -> None:
    texts = {"a": "ABC", "b": "AB", "c": ""}
    oracle = Oracle(texts, lambda ids: "".join("_ABC"[i] for i in ids))
    ids, tokens = ["a", "b", "unknown"], [[1, 2, 3], [1, 1], [3, 3, 3]]
    of_all, of_kept, of_dropped = oracle.score(ids, tokens, [True, False, True])
    assert of_all == (0.5, pytest.approx(1 / 5))
    assert of_kept == (0.0, 0.0) and of_dropped == (1.0, 0.5)
    assert all(map(math.isnan, oracle.score(["c"], [[1]], [True])[2]))
