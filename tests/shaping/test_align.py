"""Distribution alignment, token by token."""

import itertools
import math

import pytest
import torch

from espnet_softpl import shaping
from espnet_softpl.labels.prior import FLOOR, RunningMean
from tests.conftest import make_label, make_log_probs
from tests.shaping.test_base import LENGTHS, PRIOR, B, T, V, teacher_label


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_align_token_by_token(power) -> None:
    aligner, running = shaping.build("align", power=power), RunningMean(0.99)
    wanted = [max(q, FLOOR) for q in PRIOR.tolist()]
    for _ in range(3):
        label = teacher_label(torch.float64)
        running.update(label.log_probs, LENGTHS)
        mean = [max(m, FLOOR) for m in running.value.tolist()]
        shaped = aligner(label)
        ratios = [
            min(max(q / sum(wanted) / (m / sum(mean)), 0.1), 10.0)
            for q, m in zip(wanted, mean)
        ]
        for b, t in itertools.product(range(B), range(T)):
            scores = [
                math.exp(x) * ratio**power
                for x, ratio in zip(label.log_probs[b, t], ratios)
            ]
            expected = torch.tensor(scores, dtype=torch.float64) / sum(scores)
            torch.testing.assert_close(
                shaped.log_probs[b, t].exp(), expected, rtol=1e-5, atol=1e-7
            )


def test_align_moves_the_mean_toward_the_prior() -> None:
    log_probs = make_log_probs(8, 50, V)
    lengths = torch.full((8,), 50)
    prior = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1])
    label = make_label(log_probs, lengths)._replace(prior=prior)
    shaped = shaping.build("align")(label)
    before = log_probs.exp().mean((0, 1))
    after = shaped.log_probs.exp().mean((0, 1))
    assert (after - prior).abs().sum() < 0.5 * (before - prior).abs().sum()


def test_align_watches_while_the_prior_is_unknown() -> None:
    early, late = teacher_label(), teacher_label()
    aligner, fresh = shaping.build("align"), shaping.build("align")
    assert aligner(early._replace(prior=None)) == early._replace(prior=None)
    both = RunningMean(0.99)
    both.update(early.log_probs, LENGTHS)
    both.update(late.log_probs, LENGTHS)
    shaped = aligner(late)
    assert torch.equal(aligner.mean.value, both.value)
    assert not torch.equal(shaped.log_probs, fresh(late).log_probs)


def test_align_leaves_tokens_alone_that_nobody_has_seen() -> None:
    log_probs = torch.full((1, 2, 3), -math.inf)
    log_probs[..., :2] = math.log(0.5)
    prior = torch.tensor([0.5, 0.5, 0.0])
    label = make_label(log_probs, torch.tensor([2]))._replace(prior=prior)
    shaped = shaping.build("align")(label)
    torch.testing.assert_close(shaped.log_probs, log_probs)
