"""CTC of several transcripts at once, and the occupancies behind it."""

import pytest
import torch
import torch.nn.functional as F

from espnet_softpl.ctc.loss import ctc_nll, occupancies
from tests.conftest import make_log_probs, path_log_prob
from tests.ctc.test_viterbi import (
    FRAMES,
    LENGTHS,
    TRANSCRIPTS,
    alignments,
    batch,
    several,
)

pytestmark = pytest.mark.usefixtures("both_devices")


def test_ctc_of_several_transcripts_is_torchs_ctc_of_each() -> None:
    lengths, tokens, token_lengths = several()
    logits = make_log_probs(2, 9, 5).requires_grad_(True)
    weights = torch.tensor([[0.5, 1.0, 0.2], [1.0, 2.0, 0.0]])
    losses = ctc_nll(logits.log_softmax(-1), lengths, tokens, token_lengths)
    (ours,) = torch.autograd.grad((losses * weights).sum(), logits)
    total = 0.0
    for k in range(3):
        expected = F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1),
            tokens[:, k].clamp(min=0),
            lengths,
            token_lengths[:, k],
            reduction="none",
            zero_infinity=True,
        )
        torch.testing.assert_close(losses[:, k], expected)
        total = total + (expected * weights[:, k]).sum()
    assert losses[1, 0] == 0.0  # (2, 2, 2, 2) needs 7 frames.
    torch.testing.assert_close(ours, torch.autograd.grad(total, logits)[0])


def test_ctc_gradient_is_exact_for_what_is_not_normalized() -> None:
    lengths, tokens, token_lengths = several()
    scores = torch.randn(2, 9, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: ctc_nll(x, lengths, tokens, token_lengths), (scores,)
    )


def test_occupancies_are_the_share_of_alignments() -> None:
    log_probs, tokens, token_lengths = batch()
    gamma = occupancies(
        log_probs,
        LENGTHS,
        tokens.unsqueeze(1),
        token_lengths.unsqueeze(1),
        torch.ones(len(FRAMES), 1),
    )
    for b, (frames, transcript) in enumerate(zip(FRAMES, TRANSCRIPTS)):
        expected = torch.zeros(5, 4, dtype=torch.float64)
        paths = alignments(frames, transcript)
        if paths:
            scores = torch.stack([path_log_prob(log_probs[b], path) for path in paths])
            for path, share in zip(paths, scores.softmax(0)):
                for t, token in enumerate(path):
                    expected[t, token] += share
        torch.testing.assert_close(gamma[b], expected, rtol=1e-9, atol=1e-9)


def test_occupancies_take_a_certain_teacher() -> None:
    certain = torch.full((1, 4, 3), -torch.inf)
    certain[0, torch.arange(4), torch.tensor([1, 0, 2, 2])] = 0.0
    gamma = occupancies(
        certain,
        torch.tensor([4]),
        torch.tensor([[[1, 2]]]),
        torch.tensor([[2]]),
        torch.ones(1, 1),
    )
    torch.testing.assert_close(gamma, certain.exp())
