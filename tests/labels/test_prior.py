"""The floor of a distribution, and the running mean of frame posteriors."""

from __future__ import annotations

import io
import math

import pytest
import torch
import torch.nn.functional as F

from espnet_softpl.labels.prior import FLOOR, RunningMean, mean_posterior, with_floor
from tests.conftest import make_log_probs, plain_mean
from tests.regularizers.test_base import LENGTHS, B, T, V


def test_the_floor_leaves_a_distribution() -> None:
    floored = with_floor(torch.eye(5000, dtype=torch.float64)[0])
    torch.testing.assert_close(floored.sum().item(), 1.0)
    assert floored.min() > 0.99 * FLOOR


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_running_mean_is_the_bias_corrected_average(decay) -> None:
    running = RunningMean(decay)
    assert running.value is None
    average, weight = torch.zeros(V, dtype=torch.float64), 0.0
    for _ in range(5):
        log_probs = make_log_probs(B, T, V, torch.float64)
        running.update(log_probs, LENGTHS)
        mean = torch.tensor(
            plain_mean(log_probs.exp(), LENGTHS, torch.ones(B)), dtype=torch.float64
        )
        average, weight = decay * average + mean, decay * weight + 1.0
        torch.testing.assert_close(running.value, (average / weight).float())


def test_running_mean_has_no_gradient_and_is_float32() -> None:
    running = RunningMean()
    for dtype in (torch.float16, torch.float32, torch.float64):
        logits = torch.randn(B, T, V, dtype=dtype, requires_grad=True)
        running.update(logits.log_softmax(-1), LENGTHS)
        assert running.value.dtype == torch.float32
        assert not running.value.requires_grad


def test_running_mean_ignores_padding_bit_for_bit() -> None:
    log_probs = make_log_probs(B, T, V)
    one, other = RunningMean(), RunningMean()
    one.update(log_probs, LENGTHS)
    other.update(F.pad(log_probs, (0, 0, 0, 300), value=math.nan), LENGTHS)
    assert torch.equal(one.value, other.value)


def test_running_mean_passes_over_batches_without_a_mean() -> None:
    running = RunningMean()
    running.update(make_log_probs(B, T, V), torch.zeros_like(LENGTHS))
    assert running.value is None
    running.update(make_log_probs(B, T, V), LENGTHS)
    before = running.value
    running.update(torch.full((B, T, V), math.nan), LENGTHS)
    running.update(make_log_probs(B, T, V), torch.zeros_like(LENGTHS))
    assert torch.equal(running.value, before)


@pytest.mark.parametrize("batches", [0, 3])
def test_running_mean_resumes_bit_for_bit(batches) -> None:
    running, resumed = RunningMean(), RunningMean()
    for _ in range(batches):
        running.update(make_log_probs(B, T, V), LENGTHS)
    file = io.BytesIO()
    torch.save(running.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        log_probs = make_log_probs(B, T, V)
        running.update(log_probs, LENGTHS)
        resumed.update(log_probs, LENGTHS)
        assert torch.equal(running.value, resumed.value)


@pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan, "0.5"])
def test_running_mean_refuses_a_bad_decay(decay) -> None:
    with pytest.raises(ValueError, match="decay"):
        RunningMean(decay)


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
