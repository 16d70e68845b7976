"""CTC on sampled transcripts: an estimate, drawn anew at every call."""

import pytest
import torch

from espnet_softpl import criteria
from tests.conftest import transcript_cross_entropy, transcript_log_probs
from tests.criteria.test_base import LENGTHS, evaluate, student_and_label, tiny


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampled_ctc_estimates_the_transcript_cross_entropy(temperature) -> None:
    student, label = tiny()
    teacher = (label.log_probs / temperature).log_softmax(-1)
    expected = transcript_cross_entropy(student[0], teacher[0])
    conf = dict(temperature=temperature, num_samples=20_000)
    loss = criteria.build("sampled_ctc", **conf)(student, label.lengths, label)
    # One standard error is about 0.01.
    assert loss.item() == pytest.approx(expected, abs=0.05)


def test_the_empty_transcript_is_no_sample_if_the_label_says_so() -> None:
    student, label = tiny()
    label = label._replace(excludes_empty=True)
    teacher = transcript_log_probs(label.log_probs[0])
    student_scores = transcript_log_probs(student[0])
    teacher.pop(())
    weights = torch.stack(list(teacher.values())).softmax(0)
    costs = -torch.stack([student_scores[y] for y in teacher])
    criterion = criteria.build("sampled_ctc", num_samples=20_000)
    loss = criterion(student, label.lengths, label)
    assert loss.item() == pytest.approx((weights * costs).sum().item(), abs=0.05)
    assert (
        loss - criterion(student, label.lengths, label._replace(excludes_empty=False))
    ).abs().item() > 0.1
    # Nothing but empty ones teaches nothing.
    silent = torch.full_like(label.log_probs, -1e4)
    silent[..., 0] = 0.0
    logits = torch.randn_like(student, requires_grad=True)
    nothing = label._replace(log_probs=silent)
    loss = criterion(logits.log_softmax(-1), label.lengths, nothing)
    loss.sum().backward()
    assert loss.item() == 0.0 and not logits.grad.any()


def test_every_call_samples_anew_and_a_seed_repeats_it() -> None:
    logits, label = student_and_label()
    for name in ("sampled_ctc", "sampled_path_ce"):
        criterion = criteria.build(name)
        args = (logits.log_softmax(-1), LENGTHS, label)
        first = evaluate(criterion, *args)
        assert not torch.equal(first, criterion(*args))
        assert torch.equal(first, evaluate(criterion, *args))
