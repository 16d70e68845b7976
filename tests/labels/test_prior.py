"""The mean frame posterior, against means computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from espnet_softpl.labels.prior import FLOOR, RunningMean, mean_posterior, with_floor
from tests.conftest import make_log_probs


def mean_of(log_probs: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    frames = [row[:length] for row, length in zip(log_probs, lengths)]
    return torch.cat(frames).exp().mean(0)


def test_the_mean_is_that_of_the_marked_frames() -> None:
    log_probs = make_log_probs(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    expected = mean_of(log_probs, [2, 1])
    torch.testing.assert_close(mean_posterior(log_probs, mask), expected)
    assert not mean_posterior(log_probs, ~mask & mask).any()


def test_the_running_mean_forgets_by_its_decay() -> None:
    batches = [make_log_probs(2, 4, 3) for _ in range(3)]
    lengths = torch.tensor([4, 2])
    running = RunningMean(decay=0.5)
    assert running.value is None
    for log_probs in batches:
        running.update(log_probs, lengths)
    means = [mean_of(log_probs, [4, 2]) for log_probs in batches]
    expected = (0.25 * means[0] + 0.5 * means[1] + means[2]) / 1.75
    torch.testing.assert_close(running.value, expected.float())
    again = RunningMean(decay=0.5)
    again.load_state_dict(running.state_dict())
    assert torch.equal(again.value, running.value)


def test_a_batch_that_is_not_finite_is_passed_over() -> None:
    running = RunningMean()
    running.update(torch.full((1, 2, 3), math.nan), torch.tensor([2]))
    running.update(make_log_probs(1, 2, 3), torch.tensor([0]))
    assert running.value is None
    with pytest.raises(ValueError, match="decay"):
        RunningMean(decay=1.5)


def test_a_floor_keeps_a_distribution() -> None:
    floored = with_floor(torch.tensor([0.0, 0.25, 0.75]))
    assert float(floored.min()) == pytest.approx(FLOOR, rel=1e-3)
    assert float(floored.sum()) == pytest.approx(1.0, abs=1e-6)
