"""Losses of an attention decoder, against those of ESPnet and plain loops."""

from __future__ import annotations

import pytest
import torch
from espnet.nets.pytorch_backend.transformer.add_sos_eos import add_sos_eos
from espnet.nets.pytorch_backend.transformer.label_smoothing_loss import (
    LabelSmoothingLoss,
)

from espnet_softpl.criteria import decoder_ce
from espnet_softpl.ctc import PADDING, frame_mask
from espnet_softpl.labels.pseudo_label import DecoderLabel
from tests.conftest import make_log_probs


def some_transcripts() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.tensor([[3, 4, 5, 5], [2, 3, -1, -1], [-1, -1, -1, -1]])
    return tokens, torch.tensor([4, 2, 0])


def test_ends_are_where_espnet_puts_them() -> None:
    tokens, token_lengths = some_transcripts()
    theirs = add_sos_eos(tokens, 6, 7, -1)
    ours = decoder_ce.with_ends(tokens, token_lengths, 6, 7)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    garbled = tokens.masked_fill(tokens == PADDING, 99)
    again = decoder_ce.with_ends(garbled, token_lengths, 6, 7)
    assert torch.equal(again[0], ours[0]) and torch.equal(again[1], ours[1])
    nothing = tokens[:, :0], torch.zeros(3, dtype=torch.long)
    inputs, targets = decoder_ce.with_ends(*nothing, 6, 7)
    assert inputs.tolist() == [[6]] * 3 and targets.tolist() == [[7]] * 3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_losses_are_those_of_espnet(smoothing) -> None:
    _, targets = decoder_ce.with_ends(*some_transcripts(), 6, 6)
    logits = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    losses = decoder_ce.hard_losses(logits, targets, smoothing)
    for i in range(3):
        stock = LabelSmoothingLoss(8, -1, smoothing)
        expected = stock(logits[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(losses[i], expected)
    assert torch.autograd.gradcheck(
        lambda x: decoder_ce.hard_losses(x, targets, smoothing), (logits,)
    )


def test_soft_losses_have_the_gradient_of_a_cross_entropy() -> None:
    lengths = torch.tensor([5, 3, 1])
    theirs = make_log_probs(3, 5, 8, torch.float64)
    label = DecoderLabel(theirs.argmax(-1), lengths, theirs)
    logits = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    losses = decoder_ce.soft_losses(logits, label)
    log_probs = logits.detach().log_softmax(-1)
    for i, length in enumerate(lengths):
        expected = -(theirs[i].exp() * log_probs[i])[:length].sum()
        torch.testing.assert_close(losses[i].detach(), expected)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    mask = frame_mask(lengths, 5).unsqueeze(-1)
    torch.testing.assert_close(gradient, (log_probs.exp() - theirs.exp()) * mask)
    assert torch.autograd.gradcheck(
        lambda x: decoder_ce.soft_losses(x, label), (logits,)
    )
    # What stands in the padding does not matter.
    garbled = label._replace(log_probs=theirs.masked_fill(~mask, -3.0))
    assert torch.equal(decoder_ce.soft_losses(logits, garbled), losses)


def test_a_one_hot_distribution_is_a_hard_target() -> None:
    _, targets = decoder_ce.with_ends(*some_transcripts(), 6, 6)
    lengths = (targets != PADDING).sum(1)
    one_hot = torch.nn.functional.one_hot(targets.clamp(min=0), 8).float().log()
    logits = torch.randn(3, 5, 8)
    torch.testing.assert_close(
        decoder_ce.soft_losses(logits, DecoderLabel(targets, lengths, one_hot)),
        decoder_ce.hard_losses(logits, targets),
    )


def test_disagreement_counts_the_ends() -> None:
    _, targets = decoder_ce.with_ends(*some_transcripts(), 6, 6)
    answer = targets.clone()
    answer[0, 4], answer[1, 0] = 3, 4  # An end and a token, of 5 + 3 + 1 positions.
    label = DecoderLabel(answer, (targets != PADDING).sum(1))
    share = decoder_ce.decoder_disagreement(label, targets)
    assert float(share) == pytest.approx(2 / 9)
