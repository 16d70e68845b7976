"""Decoders on pseudo-labels, against a loop over utterances and positions."""

from __future__ import annotations

import math

import pytest
import torch

from tests.support.espnet_runs import HYBRID, TOKENS
from tests.support.models import (
    HYBRIDS,
    batch,
    run,
    talking,
)


def answer_step_by_step(model, encoder_out, lengths, tokens) -> torch.Tensor:
    """Ask for one position after the other, of one utterance, without a look ahead."""
    rows = []
    for count in range(len(tokens) + 1):
        prefix = torch.tensor([[model.sos, *tokens[:count]]])
        size = torch.tensor([count + 1])
        scores, _ = model.decoder(encoder_out, lengths, prefix, size)
        rows.append(scores[0, -1].log_softmax(-1))
    return torch.stack(rows)


@pytest.mark.slow
@HYBRIDS
@pytest.mark.parametrize("target", ["transcript", "forced", "forced_soft"])
@pytest.mark.parametrize("normalized", [False, True], ids=["sum", "mean"])
def test_the_loss_of_the_decoder_is_that_of_a_loop(kind, target, normalized) -> None:
    conf = dict(lsm_weight=0.1, length_normalized_loss=normalized, ctc_weight=0.3)
    model = talking(pl_decoder=target, **dict(kind, model_conf=conf))
    made = model.pl.make(model, batch(), step=0)
    label, answer = made.label, made.decoder
    inputs = batch().speech, batch().speech_lengths
    heard = model.pl.generator.run(model, *inputs).encoder_out
    total = 0.0
    for weight in (torch.ones(3), torch.tensor([1.0, 0.5, 0.0])):
        losses, positions = [], 0
        for i, (frames, count) in enumerate(zip(label.lengths, label.token_lengths)):
            tokens = label.tokens[i, :count].tolist()
            log_probs = answer_step_by_step(
                model, heard[i : i + 1, :frames], frames[None], tokens
            )
            goal = torch.tensor([*tokens, model.eos])
            if target == "forced":
                goal = answer.tokens[i, : count + 1]
            q = torch.full_like(log_probs, 0.1 / (len(TOKENS) - 1))
            q[range(count + 1), goal] = 0.9
            entropy = torch.special.entr(q).sum()
            if target == "forced_soft":
                q, entropy = answer.log_probs[i, : count + 1].exp(), 0.0
            losses.append(-(q * log_probs).sum() - entropy)
            positions += int(count + 1) * int(weight[i] > 0)
        expected = (weight * torch.stack(losses)).sum() / 3
        if normalized:
            expected *= int((weight > 0).sum()) / positions
        found = model.pseudo_decoder_loss(
            target, heard, label.lengths, label._replace(weight=weight), answer
        )
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        total += float(found.detach())
    assert total > 0.1


@HYBRIDS
@pytest.mark.parametrize("target", ["transcript", "forced", "forced_soft"])
def test_empty_transcripts_train_the_end(kind, target) -> None:
    model = talking(pl_decoder=target, **kind)
    with torch.no_grad():
        model.ctc.ctc_lo.weight.zero_()
        model.ctc.ctc_lo.bias[0] = 9.0
    made = model.pl.make(model, batch(), step=0)
    assert made.label.token_lengths.tolist() == [0, 0, 0]
    if made.decoder is not None:
        assert made.decoder.tokens.shape == (3, 1)
    loss, stats, grads = run(model)
    assert math.isfinite(float(loss)) and float(stats["loss_pl_decoder"]) > 0.0
    assert all(g.isfinite().all() for g in grads.values() if g is not None)


def test_a_language_token_stands_before_the_transcript() -> None:
    conf = dict(ctc_weight=0.3, lang_token_id=2)
    stock = talking(**dict(HYBRID, model_conf=conf))
    made = stock.pl.make(stock, batch(), step=0)
    inputs = stock.pl.generator.run(
        stock, batch().speech, batch().speech_lengths
    ).encoder_out
    one = stock.pseudo_decoder_loss(
        "transcript", inputs, made.label.lengths, made.label
    )
    half = made.label._replace(weight=torch.full((3,), 0.5))
    two = stock.pseudo_decoder_loss("transcript", inputs, made.label.lengths, half)
    torch.testing.assert_close(two, 0.5 * one)  # Ours, and ESPnet's own path.
    model = talking(pl_decoder="forced_soft", **dict(HYBRID, model_conf=conf))
    made = model.pl.make(model, batch(), step=0)
    assert torch.equal(made.decoder.lengths, made.label.token_lengths + 2)
    assert math.isfinite(float(run(model)[0]))
