"""Weights from confidence: frames, runs of a token, utterances."""

import itertools
import math

import pytest
import torch

from espnet_softpl import shaping
from tests.conftest import make_label, make_log_probs
from tests.shaping.test_base import LENGTHS, B, V, teacher_label


def trusted(confidence: float, power: float, threshold: float) -> float:
    """Weigh one number."""
    return confidence**power if confidence >= threshold else 0.0


def runs(log_probs: torch.Tensor) -> list[tuple[int, float, int]]:
    """List token, highest posterior and size of each run of a (T, V) best path."""
    frames = [(int(row.argmax()), float(row.max().exp())) for row in log_probs]
    groups = itertools.groupby(frames, key=lambda frame: frame[0])
    members = [(token, [p for _, p in group]) for token, group in groups]
    return [(token, max(probs), len(probs)) for token, probs in members]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 1.0])
def test_frame_confidence_frame_by_frame(threshold) -> None:
    label = teacher_label(torch.float64)
    shaped = shaping.build("frame_confidence", threshold=threshold)(label)
    for b, length in enumerate(LENGTHS):
        for t in range(length):
            sure = max(math.exp(x) for x in label.log_probs[b, t]) >= threshold
            expected = float(label.frame_weight[b, t]) * sure
            assert float(shaped.frame_weight[b, t]) == pytest.approx(expected)


@pytest.mark.parametrize("power, threshold", [(1.0, 0.0), (2.0, 0.7), (0.0, 0.8)])
def test_token_confidence_run_by_run(power, threshold) -> None:
    lengths = torch.tensor([40, 33, 2, 1])
    # Two tokens and blank: runs of several frames.
    log_probs = make_log_probs(B, 40, 3, torch.float64)
    label = make_label(log_probs, lengths)
    conf = {"power": power, "threshold": threshold}
    shaped = shaping.build("token_confidence", **conf)(label)
    for b, length in enumerate(lengths):
        parts = runs(log_probs[b, :length])
        assert b or any(size > 1 for _, _, size in parts)
        expected = [
            weight
            for _, highest, size in parts
            for weight in [trusted(highest, power, threshold)] * size
        ]
        assert shaped.frame_weight[b, :length].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("power, threshold", [(1.0, 0.0), (2.0, 0.7), (0.0, 0.6)])
def test_utterance_confidence_utterance_by_utterance(power, threshold) -> None:
    label = teacher_label(torch.float64)
    label.log_probs[2] = torch.tensor([0.7, 0.1, 0.1, 0.05, 0.05]).log()
    conf = {"power": power, "threshold": threshold}
    shaped = shaping.build("utterance_confidence", **conf)(label)
    for b, length in enumerate(LENGTHS):
        frames = [
            (int(x.argmax()), float(x.max())) for x in label.log_probs[b, :length]
        ]
        used = [best for token, best in frames if token != 0]
        used = used or [best for _, best in frames]
        confidence = math.exp(sum(used) / len(used))
        expected = float(label.weight[b]) * trusted(confidence, power, threshold)
        assert float(shaped.weight[b]) == pytest.approx(expected)
        if b == 2:
            assert confidence == pytest.approx(0.7)


def test_a_threshold_of_1_keeps_what_is_certain() -> None:
    log_probs = torch.full((1, 3, V), -math.inf)
    log_probs[:, :2, 1] = 0.0
    log_probs[:, 2, :2] = math.log(0.5)
    label = make_label(log_probs, torch.tensor([3]))
    shaped = shaping.build("frame_confidence", threshold=1.0)(label)
    assert shaped.frame_weight.tolist() == [[1.0, 1.0, 0.0]]
