"""Cross-entropy to the best path, frame by frame."""

import torch

from espnet_softpl import criteria
from tests.criteria.test_base import LENGTHS, student_and_label


def test_every_frame_costs_its_best_token() -> None:
    logits, label = student_and_label(torch.float64)
    log_probs = logits.log_softmax(-1)
    losses = criteria.build("best_path_ce")(log_probs, LENGTHS, label)
    for b, length in enumerate(LENGTHS.tolist()):
        best = [int(label.log_probs[b, t].argmax()) for t in range(length)]
        expected = -sum(log_probs[b, t, token] for t, token in enumerate(best))
        torch.testing.assert_close(losses[b], expected)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    one_hot = torch.nn.functional.one_hot(label.log_probs.argmax(-1), logits.size(-1))
    difference = log_probs.detach().exp() - one_hot
    for row, expected, length in zip(gradient, difference, LENGTHS):
        torch.testing.assert_close(row[:length], expected[:length])
