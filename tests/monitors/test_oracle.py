"""Error rates of pseudo-labels, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from espnet_softpl.monitors.oracle import Oracle, error_rates


def test_error_rates_by_hand() -> None:
    wer, cer = error_rates(["THE DOG", "A"], ["THE DOT", ""])
    assert wer == pytest.approx(2 / 3) and cer == pytest.approx(2 / 8)
    assert all(math.isnan(rate) for rate in error_rates([], []))


def test_oracle_scores_by_utterance() -> None:
    texts = {"a": "ABC", "b": "AB", "c": ""}
    oracle = Oracle(texts, lambda ids: "".join("_ABC"[i] for i in ids))
    tokens = torch.tensor([[1, 2, 3], [1, 1, -1], [3, 3, 3]])
    wer, cer = oracle.score(["a", "b", "unknown"], tokens, torch.tensor([3, 2, 3]))
    assert wer == 0.5 and cer == pytest.approx(1 / 5)
