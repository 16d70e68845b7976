"""Divergence from the prior: its least value, unseen tokens, no prior."""

import math

import torch

from espnet_softpl import regularizers
from espnet_softpl.labels.prior import FLOOR, with_floor
from espnet_softpl.regularizers.prior_kl import kl_to_prior
from tests.regularizers.test_base import LENGTHS, PRIOR, V, student_and_label


def test_prior_kl_is_least_at_the_prior() -> None:
    uniform = torch.full((V,), 1.0 / V)
    one_hot = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    assert kl_to_prior(with_floor(PRIOR), PRIOR).abs() < 1e-6
    assert kl_to_prior(uniform, PRIOR) > 0 and kl_to_prior(one_hot, PRIOR) > 0
    # Never seen in the prior: dear, but not infinite.
    unseen = kl_to_prior(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]), PRIOR)
    torch.testing.assert_close(unseen.item(), -math.log(FLOOR), rtol=1e-4, atol=0.0)


def test_prior_kl_of_an_unknown_prior_is_zero_with_a_graph() -> None:
    logits, label = student_and_label()
    log_probs = logits.log_softmax(-1)
    label = label._replace(prior=None)
    losses = regularizers.build("prior_kl")(log_probs, LENGTHS, label)
    losses.sum().backward()
    assert (losses == 0).all() and (logits.grad == 0).all()
