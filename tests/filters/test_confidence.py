"""Confidence: utterance by utterance, and a threshold learned from labeled data."""

import math
import random

import pytest
import torch

from espnet_softpl import filters
from espnet_softpl.ctc import greedy
from espnet_softpl.filters import Candidate
from espnet_softpl.filters.confidence import ENOUGH, calibrate
from tests.conftest import make_label, reference_collapse, reference_edits
from tests.filters.test_base import (
    LENGTHS,
    RATE,
    B,
    Relabel,
    T,
    V,
    make_candidate,
    make_labeled,
)


def reference_confidence(log_probs: torch.Tensor, length: int) -> float:
    """Compute an utterance's confidence frame by frame."""
    best = [(float(row.max()), int(row.argmax())) for row in log_probs[:length]]
    used = [p for p, token in best if token != 0] or [p for p, _ in best]
    return math.exp(sum(used) / len(used))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 1.0])
def test_confidence_utterance_by_utterance(threshold) -> None:
    candidate = make_candidate(torch.float64)
    kept = filters.build("confidence", threshold=threshold)(candidate)
    pairs = zip(candidate.label.log_probs, LENGTHS.tolist(), strict=True)
    expected = [reference_confidence(*pair) >= threshold for pair in pairs]
    assert kept.tolist() == expected


def test_a_sure_label_passes_a_threshold_of_one() -> None:
    path = torch.randint(V, (3, 4, 1))
    sure = torch.full((3, 4, V), -math.inf).scatter(2, path, 0.0)
    lengths = torch.full((3,), 4)
    candidate = Candidate(make_label(sure, lengths), lengths, RATE, Relabel([]))
    assert filters.build("confidence", threshold=1.0)(candidate).tolist() == [1] * 3


def reference_calibration(
    seen: list[tuple[float, int, int]], max_error: float
) -> float:
    """Try every confidence that was seen."""
    good = [math.inf]
    for threshold, _, _ in seen:
        above = [(e, n) for c, e, n in seen if c >= threshold]
        errors, tokens = (sum(column) for column in zip(*above))
        if errors == 0 or (tokens and errors / tokens <= max_error):
            good.append(threshold)
    return min(good)


@pytest.mark.parametrize("seed", range(20))
def test_calibration_against_all_thresholds(seed) -> None:
    draw = random.Random(seed)
    seen = [
        # Few different confidences: many are equal. Some transcripts are empty.
        (draw.randint(1, 12) / 12, draw.choice([0, 0, 1, 2, 5]), draw.randint(0, 9))
        for _ in range(draw.choice([1, 2, 10, 40]))
    ]
    columns = torch.tensor(seen, dtype=torch.float64).unbind(1)
    for max_error in (0.05, 0.1, 0.29, 0.5, 1.0):
        found = calibrate(*columns, max_error)
        assert found == reference_calibration(seen, max_error)


def test_calibration_by_hand() -> None:
    confidence = torch.tensor([0.5, 0.9, 0.7, 0.8, 0.7], dtype=torch.float64)
    errors = torch.tensor([60, 0, 15, 30, 14], dtype=torch.float64)
    tokens = torch.tensor([20, 40, 30, 50, 30], dtype=torch.float64)
    # Down to 0.9, 0.8, 0.7, 0.5: 0/40, 30/90, 59/150, 119/170.
    for max_error, lowest in [
        (0.01, 0.9),
        (0.33, 0.9),
        (1 / 3, 0.8),
        (0.39, 0.8),  # One of the two at 0.7 alone would pass.
        (0.4, 0.7),
        (0.7, 0.5),
    ]:
        assert calibrate(confidence, errors, tokens, max_error) == lowest
    assert calibrate(confidence, errors + 41, tokens, 0.5) == math.inf
    hundred = [torch.tensor([x], dtype=torch.float64) for x in (0.6, 29.0, 100.0)]
    assert calibrate(*hundred, 0.29) == 0.6
    assert calibrate(*hundred, 0.2899) == math.inf


@pytest.mark.parametrize("max_error", [0.2, 0.3, 0.5])
def test_learned_threshold_is_that_of_the_last_utterances(max_error) -> None:
    window = 60
    judge = filters.build("confidence", max_error=max_error, window=window)
    seen, thresholds = [], set()
    for _ in range(14):
        log_probs, lengths, tokens, token_lengths = make_labeled(11, 5)
        padding = torch.full((len(tokens), 2), -1)
        judge.observe(
            log_probs, lengths, torch.cat([tokens, padding], 1), token_lengths
        )
        for b, length in enumerate(lengths.tolist()):
            path = log_probs[b, :length].argmax(-1).tolist()
            truth = tokens[b, : token_lengths[b]].tolist()
            errors = reference_edits(list(reference_collapse(tuple(path))), truth)
            seen.append(
                (reference_confidence(log_probs[b], length), errors, len(truth))
            )
        expected = reference_calibration(seen[-window:], max_error)
        expected = 0.0 if len(seen) < ENOUGH else expected
        assert judge.threshold == pytest.approx(expected, rel=1e-5)
        assert judge.state_dict()["observed"].shape == (min(len(seen), window), 3)
        thresholds.add(judge.threshold)
    assert len(thresholds) > 2


def test_nothing_is_kept_where_nothing_is_good_enough() -> None:
    judge = filters.build("confidence", max_error=0.5, window=4)
    candidate = make_candidate()
    sure = candidate.label._replace(log_probs=torch.full((B, T, V), -math.inf))
    sure.log_probs[..., 1] = 0.0
    candidate = candidate._replace(label=sure)
    log_probs, lengths, _, token_lengths = make_labeled(4)
    wrong = torch.full((4, T), V)
    assert judge(candidate).tolist() == [1] * B
    judge.observe(log_probs[:3], lengths[:3], wrong[:3], lengths[:3])
    assert judge(candidate).tolist() == [1] * B  # Too little was seen.
    judge.observe(log_probs[3:], lengths[3:], wrong[3:], lengths[3:])
    assert judge(candidate).tolist() == [0] * B
    tokens, token_lengths = greedy(log_probs, lengths)
    judge.observe(log_probs, lengths, tokens, token_lengths)
    assert judge(candidate).tolist() == [1] * B
    lowest = min(
        reference_confidence(row, length)
        for row, length in zip(log_probs, lengths.tolist())
    )
    assert judge.threshold == pytest.approx(lowest)


def test_labeled_utterances_of_nan_are_passed_over() -> None:
    one, other = (filters.build("confidence", max_error=0.5) for _ in range(2))
    log_probs, lengths, tokens, token_lengths = make_labeled(60)
    one.observe(log_probs, lengths, tokens, token_lengths)
    bad = torch.tensor([0, 17])
    broken = torch.cat([torch.full_like(log_probs[bad], math.nan), log_probs])
    others = (torch.cat([x[bad], x]) for x in (lengths, tokens, token_lengths))
    other.observe(broken, *others)
    assert torch.equal(one.state_dict()["observed"], other.state_dict()["observed"])
    assert one.threshold == other.threshold


def test_a_fixed_threshold_does_not_learn() -> None:
    judge = filters.build("confidence", threshold=0.3)
    judge.observe(*make_labeled(100))
    assert judge.threshold == 0.3 and judge.state_dict() == {}
