"""Sums over frames, against plain loops."""

import math

import pytest
import torch

from espnet_softpl.criteria import frame_ce
from tests.conftest import make_log_probs

LENGTHS = torch.tensor([4, 2])


@pytest.mark.parametrize("weighed", [False, True])
def test_weights_are_zero_in_the_padding(weighed: bool) -> None:
    like = torch.zeros(2, 4, 3, dtype=torch.float64)
    weight = torch.rand(2, 4) if weighed else None
    weights = frame_ce.frame_weights(LENGTHS, weight, like)
    assert weights.dtype == torch.float64 and (weights[1, 2:] == 0).all()
    expected = torch.ones(2, 4) if weight is None else weight
    assert torch.equal(weights[0], expected[0].double())
    assert torch.equal(weights[1, :2], expected[1, :2].double())


def test_cross_entropies_are_those_of_a_loop() -> None:
    log_probs = make_log_probs(2, 4, 3, torch.float64).requires_grad_(True)
    target = make_log_probs(2, 4, 3, torch.float64)
    weights = frame_ce.frame_weights(LENGTHS, torch.rand(2, 4), log_probs)
    expected = torch.stack(
        [
            -sum(
                weights[b, t] * math.exp(target[b, t, v]) * log_probs[b, t, v]
                for t in range(4)
                for v in range(3)
            )
            for b in range(2)
        ]
    )
    (gradient,) = torch.autograd.grad(expected.sum(), log_probs)
    for losses in (
        frame_ce.distribution_ce(log_probs, target, weights),
        frame_ce.probability_ce(log_probs, target.exp(), weights),
    ):
        torch.testing.assert_close(losses, expected)
        (ours,) = torch.autograd.grad(losses.sum(), log_probs)
        torch.testing.assert_close(ours, gradient)


def test_a_probability_of_zero_costs_nothing() -> None:
    impossible = torch.tensor([[[0.0, -math.inf]]], requires_grad=True)
    weights = torch.ones(1, 1)
    for losses in (
        frame_ce.distribution_ce(impossible, impossible.detach(), weights),
        frame_ce.probability_ce(impossible, torch.tensor([[[1.0, 0.0]]]), weights),
    ):
        assert losses.tolist() == [0.0]
        (gradient,) = torch.autograd.grad(losses.sum(), impossible)
        assert gradient.tolist() == [[[-1.0, 0.0]]]


def test_paths_are_averaged_and_their_padding_is_free() -> None:
    log_probs = make_log_probs(1, 3, 4, torch.float64)
    paths = torch.tensor([[[1, 0, -1], [2, 2, 3]]])
    weights = torch.tensor([[1.0, 0.5, 1.0]], dtype=torch.float64)
    first = log_probs[0, 0, 1] + 0.5 * log_probs[0, 1, 0]
    second = log_probs[0, 0, 2] + 0.5 * log_probs[0, 1, 2] + log_probs[0, 2, 3]
    loss = frame_ce.path_ce(log_probs, paths, weights)
    torch.testing.assert_close(loss[0], -(first + second) / 2)
