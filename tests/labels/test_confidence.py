"""How sure a teacher is, against values computed by hand."""

from __future__ import annotations

import pytest
import torch

from espnet_softpl.labels.confidence import (
    frame_confidence,
    token_confidence,
    utterance_confidence,
)

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
