"""Soft cross-entropy: by enumeration, its gradient, temperatures and blanks."""

import math

import pytest
import torch
import torch.nn.functional as F

from espnet_softpl import criteria
from tests.conftest import all_paths, make_label, make_log_probs, path_log_prob
from tests.criteria.test_base import LENGTHS, T, V, student_and_label


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_soft_ce_is_the_cross_entropy_over_all_alignments(temperature) -> None:
    frames, tokens = 4, 3
    student = make_log_probs(1, frames, tokens, torch.float64)
    teacher = make_log_probs(1, frames, tokens, torch.float64)
    softened = (teacher / temperature).log_softmax(-1)
    expected = -sum(
        path_log_prob(softened[0], path).exp() * path_log_prob(student[0], path)
        for path in all_paths(frames, tokens)
    )
    loss = criteria.soft_ce(student, torch.tensor([frames]), teacher, temperature)
    torch.testing.assert_close(loss[0], expected)


def test_soft_ce_gradient_is_student_minus_teacher() -> None:
    logits, label = student_and_label(torch.float64)
    criteria.soft_ce(logits.log_softmax(-1), LENGTHS, label.log_probs).sum().backward()
    difference = logits.detach().softmax(-1) - label.log_probs.exp()
    for row, expected, length in zip(logits.grad, difference, LENGTHS):
        torch.testing.assert_close(row[:length], expected[:length])


def test_soft_ce_of_a_sharp_teacher_is_the_loss_of_its_best_path() -> None:
    logits, label = student_and_label(torch.float64)
    log_probs = logits.log_softmax(-1)
    losses = criteria.soft_ce(log_probs, LENGTHS, label.log_probs, temperature=1e-4)
    best = label.log_probs.argmax(-1)
    picked = log_probs.gather(2, best.unsqueeze(2)).squeeze(2)
    expected = torch.stack([-row[:n].sum() for row, n in zip(picked, LENGTHS)])
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)


def test_blank_handling_keeps_the_frames_that_it_says() -> None:
    best = torch.tensor([[0, 0, 1, 0, 0, 2, 2, 0, 0]])
    teacher = F.one_hot(best, V).float().mul(9).log_softmax(-1)
    label = make_label(teacher, torch.tensor([8]))
    student = make_log_probs(1, T, V)
    per_frame = -(teacher.exp() * student).sum(-1)[0]
    for conf, frames in (
        ({"blank": "drop"}, [2, 5, 6]),
        ({"blank": "symmetric", "window": 0}, [2, 5, 6]),
        ({"blank": "symmetric", "window": 1}, [1, 2, 3, 4, 5, 6, 7]),
        ({"blank": "all"}, list(range(8))),
    ):
        loss = criteria.build("soft_ce", **conf)(student, torch.tensor([8]), label)
        torch.testing.assert_close(loss[0], per_frame[frames].sum())


def test_distillation_keeps_the_size_of_its_gradient() -> None:
    """The square of the temperature: the point of `scale_by_square`."""
    logits, label = student_and_label(torch.float64)
    conf = dict(temperature=50.0, student_temperature=50.0, scale_by_square=True)
    criteria.build("soft_ce", **conf)(
        logits.log_softmax(-1), LENGTHS, label
    ).sum().backward()
    # At a high temperature the gradient tends to that of half the squared distance
    # of the centered logits, divided by the number of tokens.
    distance = logits.detach() - label.log_probs
    expected = (distance - distance.mean(-1, keepdim=True)) / V
    torch.testing.assert_close(logits.grad[0], expected[0], rtol=0.2, atol=0.02)


def test_soft_ce_takes_probabilities_of_exactly_zero() -> None:
    certain = torch.tensor([[[0.0, -math.inf]]])
    assert criteria.soft_ce(certain, torch.tensor([1]), certain).tolist() == [0.0]
