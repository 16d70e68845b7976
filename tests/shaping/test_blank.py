"""The balance between blank and tokens, frame by frame."""

import itertools
import math

import pytest
import torch

from espnet_softpl import shaping
from espnet_softpl.labels.prior import FLOOR
from tests.conftest import make_label, make_log_probs, reference_collapse
from tests.shaping.test_base import PRIOR, B, T, V, teacher_label


@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("scale", [0.0, 0.7])
def test_blank_frame_by_frame(bias, scale) -> None:
    label = teacher_label(torch.float64)
    shaped = shaping.build("blank", bias=bias, prior_scale=scale)(label)
    prior = [max(q, FLOOR) for q in PRIOR.tolist()]
    share = prior[0] / sum(prior)
    factor = math.exp(bias) / (share / (1.0 - share)) ** scale
    for b, t in itertools.product(range(B), range(T)):
        scores = [math.exp(x) for x in label.log_probs[b, t]]
        scores[0] *= factor
        expected = torch.tensor(scores, dtype=torch.float64) / sum(scores)
        torch.testing.assert_close(
            shaped.log_probs[b, t].exp(), expected, rtol=1e-6, atol=1e-9
        )


def test_a_blank_bias_below_0_says_more_tokens() -> None:
    log_probs = make_log_probs(1, 6, V)
    log_probs[..., 0] += 8.0
    label = make_label(log_probs.log_softmax(-1), torch.tensor([6]))
    assert label.token_lengths.tolist() == [0]
    shaped = shaping.build("blank", bias=-30.0)(label)
    path = tuple(log_probs[0, :, 1:].argmax(-1).add(1).tolist())
    assert tuple(shaped.tokens[0].tolist()) == reference_collapse(path)


def test_blank_without_a_prior_has_its_bias() -> None:
    label = teacher_label()._replace(prior=None)
    one = shaping.build("blank", bias=1.0, prior_scale=0.5)(label)
    two = shaping.build("blank", bias=1.0)(label)
    assert torch.equal(one.log_probs, two.log_probs)
