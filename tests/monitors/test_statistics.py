"""Statistics of pseudo-labels, against values computed by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from espnet_softpl.monitors.oracle import Oracle, error_rates
from espnet_softpl.monitors.statistics import (
    disagreement,
    frame_statistics,
    label_statistics,
    vocabulary_use,
)
from tests.conftest import make_label, make_log_probs


def test_frame_statistics_by_hand() -> None:
    sharp = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]).log()
    stats = frame_statistics(sharp.unsqueeze(0), torch.tensor([2]))
    assert stats["pl_blank_share"] == 0.5
    assert stats["pl_frame_entropy"] == 0.0
    assert stats["pl_mean_entropy"] == pytest.approx(math.log(2))
    assert stats["pl_mutual_information"] == pytest.approx(math.log(2))


def test_collapse_shows_as_no_mutual_information() -> None:
    constant = torch.tensor([0.5, 0.3, 0.2]).log().expand(2, 7, 3)
    stats = frame_statistics(constant, torch.tensor([7, 4]))
    assert stats["pl_mutual_information"] == pytest.approx(0.0, abs=1e-6)
    assert stats["pl_frame_entropy"] > 1.0


def test_padding_is_left_out() -> None:
    log_probs = make_log_probs(2, 6, 4)
    lengths = torch.tensor([6, 2])
    before = frame_statistics(log_probs, lengths)
    log_probs[1, 2:] = torch.tensor([0.97, 0.01, 0.01, 0.01]).log()
    assert frame_statistics(log_probs, lengths) == before


def test_label_statistics() -> None:
    path = torch.tensor([[1, 1, 0, 2], [0, 0, 0, 0]])
    log_probs = torch.full((2, 4, 3), -50.0).scatter(2, path.unsqueeze(2), 0.0)
    label = make_label(log_probs.log_softmax(-1), torch.tensor([4, 4]))
    stats = label_statistics(label, torch.tensor([100, 300]), 0.01)
    assert stats["pl_empty_share"] == 0.5
    assert stats["pl_vocabulary"] == pytest.approx(2.0)
    assert stats["pl_length_ratio"] == pytest.approx(2 / 400 / 0.01)
    assert stats["pl_blank_share"] == pytest.approx(5 / 8)


def test_vocabulary_use_is_a_perplexity() -> None:
    tokens = torch.tensor([[1, 2, 1, -1], [3, 1, 4, 4]])
    use = vocabulary_use(tokens, torch.tensor([3, 2]))
    # Frequencies 3/5, 1/5, 1/5; what lies beyond a length does not count.
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.2))
    assert float(use) == pytest.approx(math.exp(entropy))
    assert math.isnan(vocabulary_use(tokens, torch.tensor([0, 0])))


def test_disagreement_counts_frames() -> None:
    one = F.one_hot(torch.tensor([[1, 2, 0], [1, 1, 2]]), 3).float()
    other = F.one_hot(torch.tensor([[1, 0, 0], [2, 1, 1]]), 3).float()
    lengths = torch.tensor([3, 2])
    path = other.argmax(-1)
    assert float(disagreement(one, path, lengths)) == pytest.approx(0.4)
    assert float(disagreement(one, one.argmax(-1), lengths)) == 0.0


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
