"""Tiny models of every kind that say something, for tests of who learns from labels."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from tests.support.espnet_runs import HYBRID, config
from tests.training.test_model import batch, make_model

RNN = dict(
    decoder="rnn",
    decoder_conf=dict(num_layers=1, hidden_size=8),
    model_conf=dict(ctc_weight=0.3),
)
# The backend of ESPnet's loss of transducers is not installed with this package:
# `transducer` puts a plain one in its place.
TRANSDUCER = dict(
    decoder="transducer",
    decoder_conf=dict(hidden_size=8),
    joint_net_conf=dict(joint_space_size=8),
    model_conf=dict(ctc_weight=0.3, report_cer=False, report_wer=False),
)
JOINT = ("decoder.", "joint_network.")

HYBRIDS = pytest.mark.parametrize("kind", [HYBRID, RNN], ids=["transformer", "rnn"])
STILL = dict(dropout_rate=0.0, positional_dropout_rate=0.0, attention_dropout_rate=0.0)
DEEP = dict(
    encoder_conf=dict(
        config()["encoder_conf"],
        **STILL,
        num_blocks=3,
        interctc_layer_idx=[1, 2],
        interctc_use_conditioning=True,
    ),
    specaug=None,
)
INTER = dict(DEEP, model_conf=dict(ctc_weight=1.0, interctc_weight=0.4))
INTER_HYBRID = dict(HYBRID, **DEEP) | dict(
    model_conf=dict(ctc_weight=0.3, interctc_weight=0.4)
)


def talking(criterion: str = "hard_ctc", who: str = "student", **changes):
    """Build a model that says something, without randomness."""
    torch.manual_seed(4)
    return give_a_voice(make_model(criterion, who, **changes))


def give_a_voice(model):
    """Let the heads of a new model say something, in eval mode."""
    model.error_calculator = None  # Of labeled batches, in eval mode.
    model.eval()
    output = getattr(model.decoder, "output_layer", None)
    output = getattr(model.decoder, "output", output)
    with torch.no_grad():
        head = model.ctc.ctc_lo
        frames = model.ctc_outputs(batch().speech, batch().speech_lengths).encoder_out
        head.weight.mul_(10.0)
        head.bias.copy_(-head.weight @ frames.mean((0, 1)))  # No token everywhere.
        if output is not None:
            output.weight.mul_(10.0)
    return model


def run(model, **changes):
    """Train on the unlabeled batch; return the loss, statistics and gradients."""
    model.zero_grad()
    loss, stats, _ = model(unlabeled=batch()._replace(**changes))
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    # ESPnet makes vectors of scalars.
    return loss[0].detach(), {k: v.reshape(()) for k, v in stats.items()}, grads


FORMS = [
    dict(HYBRID, pl_decoder="transcript"),
    dict(HYBRID, pl_decoder="forced"),
    dict(RNN, pl_decoder="forced_soft"),
    dict(INTER, pl_interctc="last"),
    dict(INTER, pl_interctc="own"),
    dict(INTER_HYBRID, pl_interctc="own", pl_decoder="forced_soft"),
]
FORM_IDS = ["transcript", "forced", "soft-rnn", "last", "own", "both"]


class PlainRNNTLoss(torch.nn.Module):
    """Minus the log of the sum over alignments, by recursion; a mean over the batch."""

    def __init__(self, blank: int = 0, fastemit_lambda: float = 0.0) -> None:
        super().__init__()
        self.blank = blank

    def forward(self, logits, targets, frames, token_lengths):
        """Compute the loss of (B, T, U + 1, V) joint outputs."""
        assert logits.shape[1:3] == (int(frames.max()), int(token_lengths.max()) + 1)
        assert targets.dtype == frames.dtype == token_lengths.dtype == torch.int32
        log_probs, losses = logits.float().log_softmax(-1), []
        for i, (t_max, u_max) in enumerate(zip(frames.tolist(), token_lengths)):
            alpha = {(0, 0): log_probs.new_zeros(())}
            for t in range(t_max):
                for u in range(int(u_max) + 1):
                    ways = []
                    if t > 0:
                        step = log_probs[i, t - 1, u, self.blank]
                        ways.append(alpha[t - 1, u] + step)
                    if u > 0:
                        step = log_probs[i, t, u - 1, targets[i, u - 1]]
                        ways.append(alpha[t, u - 1] + step)
                    if ways:
                        alpha[t, u] = torch.stack(ways).logsumexp(0)
            last = t_max - 1, int(u_max)
            losses.append(-(alpha[last] + log_probs[(i, *last, self.blank)]))
        return torch.stack(losses).mean()


@pytest.fixture
def transducer(monkeypatch) -> dict:
    """Options of a transducer model, with a stand-in for ESPnet's loss."""
    backend = types.ModuleType("warprnnt_pytorch")
    backend.RNNTLoss = PlainRNNTLoss
    monkeypatch.setitem(sys.modules, "warprnnt_pytorch", backend)
    return TRANSDUCER
