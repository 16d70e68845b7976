"""How sure a teacher is: by hand, and whatever the padding."""

from __future__ import annotations

import pytest
import torch

from espnet_softpl.labels.confidence import (
    frame_confidence,
    token_confidence,
    utterance_confidence,
)
from tests.conftest import make_log_probs

# Best tokens 1, 1, 0, 2 with these posteriors; the last frame is padding.
POSTERIORS = torch.tensor(
    [[[0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]]
)


def test_confidence_by_hand() -> None:
    log_probs, lengths = POSTERIORS.log(), torch.tensor([3])
    frames = frame_confidence(log_probs)
    torch.testing.assert_close(frames, torch.tensor([[0.6, 0.8, 0.5, 0.7]]))
    runs = token_confidence(log_probs, lengths)[:, :3]
    torch.testing.assert_close(runs, torch.tensor([[0.8, 0.8, 0.5]]))
    mean = utterance_confidence(log_probs, lengths)
    torch.testing.assert_close(mean, torch.tensor([(0.6 * 0.8) ** 0.5]))
    blanks = utterance_confidence(log_probs[:, 2:3], torch.tensor([1]))
    torch.testing.assert_close(blanks, torch.tensor([0.5]))


def test_utterance_confidence_of_long_audio_ignores_padding_bit_for_bit() -> None:
    """A plain sum over 700 frames is grouped by the padded size, and rounds so."""
    lengths = torch.full((64,), 700)
    log_probs = make_log_probs(64, 1000, 5)
    narrow = utterance_confidence(log_probs[:, :700], lengths)
    for size in (707, 764, 1000):
        wide = utterance_confidence(log_probs[:, :size], lengths)
        assert torch.equal(narrow, wide)


# Best tokens: 1 1 0 2 and 0 0, then padding; posteriors of the best on the right.
PROBS = torch.tensor(
    [
        [[0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.3, 0.2, 0.5]],
        [[0.9, 0.05, 0.05], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],
    ]
)
LENGTHS = torch.tensor([4, 2])


def test_a_frame_is_as_sure_as_its_best_token() -> None:
    torch.testing.assert_close(frame_confidence(PROBS.log()), PROBS.amax(-1))


def test_a_token_is_as_sure_as_its_best_frame() -> None:
    confidence = token_confidence(PROBS.log(), LENGTHS)
    torch.testing.assert_close(confidence[0], torch.tensor([0.8, 0.8, 0.7, 0.5]))
    torch.testing.assert_close(confidence[1, :2], torch.tensor([0.9, 0.9]))


def test_an_utterance_is_as_sure_as_its_tokens_on_average() -> None:
    speech, silence = utterance_confidence(PROBS.log(), LENGTHS).tolist()
    assert speech == pytest.approx((0.6 * 0.8 * 0.5) ** (1 / 3), rel=1e-5)
    assert silence == pytest.approx((0.9 * 0.6) ** 0.5, rel=1e-5)
