"""Transducers on pseudo-labels: through their CTC head, and on transcripts."""

from __future__ import annotations

import sys

import pytest
import torch

from espnet_softpl.criteria.base import weighted_mean
from espnet_softpl.ctc import frame_mask
from tests.support.models import JOINT, TRANSDUCER, batch, run, talking, transducer
from tests.training.test_model import labeled_batch, unlabeled_batch

__all__ = ["transducer"]  # A fixture.


@pytest.mark.parametrize("criterion", ["hard_ctc", "soft_ce"])
def test_a_transducer_learns_through_its_ctc_head(criterion, transducer) -> None:
    model = talking(criterion, **transducer)
    loss, stats, grads = run(model)
    plain = talking(criterion)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(JOINT)}
    plain.load_state_dict(state)
    expected, _, others = run(plain)
    torch.testing.assert_close(loss, 0.3 * expected)
    for name, grad in grads.items():
        if name.startswith(JOINT):
            assert grad is None, name
        else:
            torch.testing.assert_close(grad, 0.3 * others[name], msg=name)
    assert "loss_pl_decoder" not in stats


@pytest.mark.parametrize("criterion", ["hard_ctc", "soft_ce"])
def test_a_transducer_learns_transcripts(criterion, transducer) -> None:
    model = talking(criterion, pl_decoder="transcript", **transducer).train()
    _, of_labeled, _ = model(**labeled_batch())
    _, of_unlabeled, _ = model(**unlabeled_batch())
    assert list(of_labeled) == list(of_unlabeled) == list(model.statistics_keys())
    loss, stats, grads = run(model.eval())
    expected = 0.3 * stats["loss_pl_ctc"] + stats["loss_pl_decoder"]
    torch.testing.assert_close(loss, expected)
    assert all(grad is not None for grad in grads.values())
    label = model.pl.make(model, batch(), 0).label
    encoder_out = model.ctc_outputs(*batch()[1:3]).encoder_out
    assert int(label.token_lengths.min()) > 0
    alone = torch.stack(
        [
            model._calc_transducer_loss(
                encoder_out[i : i + 1, : int(label.lengths[i])],
                label.lengths[i : i + 1],
                label.tokens[i : i + 1],
            )[0]
            for i in range(3)
        ]
    ).detach()
    torch.testing.assert_close(stats["loss_pl_decoder"], alone.mean())
    # Weights; the longest utterance is among those left out. An empty transcript is
    # left out too.
    for weight in ([0.0, 1.0, 1.0], [1.0, 0.25, 0.0], [0.0, 0.0, 0.0]):
        weighed = label._replace(weight=torch.tensor(weight))
        found = model.pseudo_decoder_loss(
            "transcript", encoder_out, label.lengths, weighed
        )
        torch.testing.assert_close(found, weighted_mean(alone, weighed.weight))
    token_lengths = label.token_lengths.clone()
    token_lengths[1] = 0
    empty = label._replace(
        tokens=label.tokens.masked_fill(~frame_mask(token_lengths, 99)[:, :1], -1),
        token_lengths=token_lengths,
    )
    found = model.pseudo_decoder_loss("transcript", encoder_out, label.lengths, empty)
    torch.testing.assert_close(found, (alone[0] + alone[2]) / 3)


def test_a_transducer_without_its_backend_is_refused_by_espnet(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "warprnnt_pytorch", None)
    with pytest.raises(ImportError, match="warprnnt_pytorch"):
        talking(**TRANSDUCER)
