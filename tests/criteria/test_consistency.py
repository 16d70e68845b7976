"""Consistency of two views, each the other's target."""

import torch

from espnet_softpl import criteria
from tests.criteria.test_base import LENGTHS, B, T, V, student_and_label


def test_consistency_is_the_symmetric_divergence_of_two_views() -> None:
    one = torch.randn(B, T, V, dtype=torch.float64, requires_grad=True)
    two = torch.randn(B, T, V, dtype=torch.float64, requires_grad=True)
    _, label = student_and_label(torch.float64)
    criterion = criteria.build("consistency", labeled_weight=0.5)
    views = one.log_softmax(-1), two.log_softmax(-1)
    losses = criterion(views[0], LENGTHS, label._replace(second_view=views[1]))
    losses.sum().backward()
    p, q = one.detach().softmax(-1), two.detach().softmax(-1)
    for b, length in enumerate(LENGTHS):
        p_b, q_b = p[b, :length], q[b, :length]
        expected = 0.5 * ((p_b - q_b) * (p_b.log() - q_b.log())).sum()
        torch.testing.assert_close(losses[b], expected)
        torch.testing.assert_close(one.grad[b, :length], 0.5 * (p_b - q_b))
        torch.testing.assert_close(two.grad[b, :length], 0.5 * (q_b - p_b))
    torch.testing.assert_close(
        criterion.on_labeled(views[0], LENGTHS, views[1]), 0.5 * losses
    )
    same = label._replace(second_view=views[0])
    nothing = criterion(views[0], LENGTHS, same)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing))
