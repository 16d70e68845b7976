"""Error rates of pseudo-labels, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from espnet_softpl.monitors.oracle import Oracle, error_rates
from tests.conftest import make_label, make_log_probs


def test_error_rates_by_hand() -> None:
    wer, cer = error_rates(["THE DOG", "A"], ["THE DOT", ""])
    assert wer == pytest.approx(2 / 3) and cer == pytest.approx(2 / 8)
    assert all(math.isnan(rate) for rate in error_rates([], []))


def test_oracle_scores_by_utterance() -> None:
    texts = {"a": "ABC", "b": "AB", "c": ""}
    oracle = Oracle(texts, lambda ids: "".join("_ABC"[i] for i in ids))
    label = make_label(make_log_probs(3, 4, 4), torch.tensor([4, 4, 4]))._replace(
        tokens=torch.tensor([[1, 2, 3], [1, 1, -1], [3, 3, 3]]),
        token_lengths=torch.tensor([3, 2, 3]),
        weight=torch.tensor([0.5, 0.0, 1.0]),
    )
    scores = oracle.score(["a", "b", "unknown"], label)
    assert scores["pl_wer"] == 0.5 and scores["pl_cer"] == pytest.approx(1 / 5)
    assert scores["pl_wer_kept"] == 0.0 and scores["pl_wer_dropped"] == 1.0
    scores = oracle.score(["c", "unknown", "unknown"], label)
    assert all(map(math.isnan, scores.values())) and len(scores) == 4
