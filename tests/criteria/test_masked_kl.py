"""The teacher's distribution at masked frames, frame by frame."""

import torch

from espnet_softpl import criteria
from tests.criteria.test_base import LENGTHS, B, T, V, student_and_label

MASKED = torch.zeros(B, T, dtype=torch.bool)
MASKED[0, 2:5] = True
MASKED[1, 6:] = True  # Of these, only the first is not padding.
MASKED[2] = True


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    """Compute KL(p || q) of one frame, term by term."""
    return sum(float(a * (a / b).log()) for a, b in zip(p, q))


def test_masked_frames_cost_their_divergence_and_others_nothing() -> None:
    logits, label = student_and_label(torch.float64)
    label = label._replace(masked=MASKED, frame_weight=torch.rand(B, T).double())
    losses = criteria.build("masked_kl")(logits.log_softmax(-1), LENGTHS, label)
    losses.sum().backward()
    losses = losses.detach()
    student, teacher = logits.detach().softmax(-1), label.log_probs.exp()
    for b, length in enumerate(LENGTHS.tolist()):
        expected = 0.0
        for t in range(T):
            trust = float(label.frame_weight[b, t])
            counts = bool(MASKED[b, t]) and t < length
            gradient = trust * (student[b, t] - teacher[b, t]) if counts else 0.0
            expected += trust * kl(teacher[b, t], student[b, t]) if counts else 0.0
            found = logits.grad[b, t]
            torch.testing.assert_close(found, gradient + torch.zeros_like(found))
        assert abs(float(losses[b]) - expected) < 1e-9
    assert float(losses[3]) == 0.0 and (losses[:3] > 0).all()


def test_gradcheck_with_masks() -> None:
    logits, label = student_and_label(torch.float64)
    label = label._replace(masked=MASKED)
    criterion = criteria.build("masked_kl")
    assert torch.autograd.gradcheck(
        lambda x: criterion(x.log_softmax(-1), LENGTHS, label), (logits,)
    )


def test_without_masks_it_is_soft_ce_less_the_teachers_entropy() -> None:
    logits, label = student_and_label(torch.float64)
    log_probs = logits.log_softmax(-1)
    both = [
        criteria.build(name)(student, LENGTHS, label)
        for name, student in (
            ("masked_kl", log_probs),
            ("soft_ce", log_probs),
            ("soft_ce", label.log_probs),
        )
    ]
    torch.testing.assert_close(both[0], both[1] - both[2])
    everywhere = label._replace(masked=torch.ones(B, T, dtype=torch.bool))
    found = criteria.build("masked_kl")(log_probs, LENGTHS, everywhere)
    assert torch.equal(found, both[0])


def test_half_precision_with_masks() -> None:
    logits, label = student_and_label()
    low = logits.log_softmax(-1).bfloat16()
    label = label._replace(masked=MASKED)
    losses = criteria.build("masked_kl")(low, LENGTHS, label)
    assert losses.dtype == torch.float32 and losses.shape == (B,)
    assert low.size(2) == V and losses.isfinite().all()
