"""Six tests of your own criteria; run with pytest, with my_criteria.py beside it."""

import pytest
import torch

from espnet_softpl.criteria import PseudoLabel, build
from espnet_softpl.ctc import greedy

LENGTHS = torch.tensor([9, 7, 4, 1])
each = pytest.mark.parametrize("name", ["ReverseKL", "FocalCTC"])


def make(dtype=torch.float64):
    """Draw a student's logits, (4, 9, 5), and a teacher's label."""
    torch.manual_seed(1)
    logits = torch.randn(4, 9, 5, dtype=dtype, requires_grad=True)
    teacher = (2 * torch.randn(4, 9, 5, dtype=dtype)).log_softmax(-1)
    tokens, token_lengths = greedy(teacher, LENGTHS)
    weight = torch.ones(4, dtype=dtype)
    return logits, PseudoLabel(teacher, LENGTHS, tokens, token_lengths, weight)


def take(label, rows):
    """Take some utterances of a label."""
    return label._replace(
        log_probs=label.log_probs[rows],
        lengths=label.lengths[rows],
        tokens=label.tokens[rows],
        token_lengths=label.token_lengths[rows],
        weight=label.weight[rows],
    )


@each
def test_one_finite_value_per_utterance(name):
    logits, label = make(torch.float32)
    losses = build(f"my_criteria:{name}")(logits.log_softmax(-1), LENGTHS, label)
    assert losses.shape == (4,) and losses.isfinite().all()


@each
def test_the_gradient_is_that_of_the_loss(name):
    logits, label = make()
    criterion = build(f"my_criteria:{name}")
    assert torch.autograd.gradcheck(
        lambda x: criterion(x.log_softmax(-1), LENGTHS, label), (logits,)
    )


@each
def test_nothing_reaches_the_teacher_or_the_padding(name):
    logits, label = make()
    criterion = build(f"my_criteria:{name}")
    criterion(logits.log_softmax(-1), LENGTHS, label).sum().backward()
    assert not label.log_probs.requires_grad
    for row, length in zip(logits.grad, LENGTHS):
        assert row[:length].abs().sum() > 0
        assert (row[length:] == 0).all()


@each
def test_the_others_of_the_batch_do_not_matter(name):
    logits, label = make()
    criterion = build(f"my_criteria:{name}")
    losses = criterion(logits.log_softmax(-1), LENGTHS, label)
    rows = torch.tensor([2, 0])
    few = criterion(logits.log_softmax(-1)[rows], LENGTHS[rows], take(label, rows))
    torch.testing.assert_close(few, losses[rows])


@each
def test_degenerate_labels_stay_finite(name):
    logits, label = make(torch.float32)
    blank = torch.full((4, 9, 5), -1e4)
    blank[..., 0] = 0.0
    tokens, token_lengths = greedy(blank, LENGTHS)  # (4, 0): nothing but blank
    label = label._replace(
        log_probs=blank.log_softmax(-1), tokens=tokens, token_lengths=token_lengths
    )
    losses = build(f"my_criteria:{name}")(logits.log_softmax(-1), LENGTHS, label)
    losses.sum().backward()
    assert losses.isfinite().all() and logits.grad.isfinite().all()


@each
def test_a_model_learns_its_teacher(name):
    logits, label = make()
    criterion = build(f"my_criteria:{name}")
    optimizer = torch.optim.Adam([logits], lr=0.1)
    first = criterion(logits.log_softmax(-1), LENGTHS, label).sum().item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = criterion(logits.log_softmax(-1), LENGTHS, label).sum()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first
