"""A blend: the sum of its parts, and what it tells the engine."""

import pytest
import torch

from espnet_softpl import criteria
from tests.conftest import make_log_probs
from tests.criteria.test_base import LENGTHS, B, T, V, student_and_label


def test_blend_sums_its_parts_and_averages_over_two_views() -> None:
    logits, label = student_and_label()
    log_probs = logits.log_softmax(-1)
    second = make_log_probs(B, T, V)
    label = label._replace(second_view=second)
    blend = criteria.build(
        "blend",
        parts=[
            {"criterion": "hard_ctc", "weight": 0.7},
            {
                "criterion": "consistency",
                "criterion_conf": {"labeled_weight": 0.5},
                "weight": 0.2,
            },
        ],
    )
    assert blend.views == 2 and blend.labeled_weight == pytest.approx(0.1)
    hard = criteria.build("hard_ctc")
    both = hard(log_probs, LENGTHS, label) + hard(second, LENGTHS, label)
    agree = criteria.build("consistency")(log_probs, LENGTHS, label)
    torch.testing.assert_close(
        blend(log_probs, LENGTHS, label), 0.7 * 0.5 * both + 0.2 * agree
    )
    torch.testing.assert_close(
        blend.on_labeled(log_probs, LENGTHS, second), 0.1 * agree
    )


def test_each_view_has_its_own_masks() -> None:
    logits, label = student_and_label()
    log_probs, second = logits.log_softmax(-1), make_log_probs(B, T, V)
    label = label._replace(
        second_view=second,
        masked=torch.rand(B, T) < 0.5,
        second_masked=torch.rand(B, T) < 0.5,
    )
    parts = [{"criterion": "masked_kl"}, {"criterion": "consistency", "weight": 0.0}]
    blend = criteria.build("blend", parts=parts)
    assert blend.needs_masked and blend.views == 2
    alone = criteria.build("masked_kl")
    one = alone(log_probs, LENGTHS, label)
    two = alone(second, LENGTHS, label._replace(masked=label.second_masked))
    found = blend(log_probs, LENGTHS, label)
    torch.testing.assert_close(found, 0.5 * (one + two))


def test_what_a_blend_tells_the_engine() -> None:
    hard = criteria.build("blend", parts=[{"criterion": "hard_ctc"}])
    assert not hard.frame_level and hard.trains_decoder and hard.views == 1
    mixed = criteria.build("blend")
    assert mixed.frame_level and mixed.trains_decoder and not mixed.needs_masked
