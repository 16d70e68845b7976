"""The CTC likelihood of several transcripts at once, and the occupancies behind it.

K transcripts of each utterance. Both are computed on the tokens of the transcript
alone, so that time and memory grow with U and not with the vocabulary: on the CPU as
that of networks (`graph`), on a GPU by torch's own CTC.

Source: Graves et al. 2006, "Connectionist temporal classification"; the trick that
reads the occupancies off the gradient is derived at `_SymbolCTC`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_softpl.ctc import BLANK, frame_mask, in_float32, kernels
from espnet_softpl.ctc.confusion import ConfusionNetwork
from espnet_softpl.ctc.graph import graph_ctc


def ctc_nll(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> Tensor:
    """Compute -log P(transcript | log_probs), summed over all alignments.

    The gradient with respect to `log_probs` is exact whether or not they are
    normalized (torch's own CTC assumes that they are).

    Args:
        log_probs: Frame log-posteriors, (B, T, V).
        lengths: Frames per utterance, (B,).
        tokens: Transcripts, (B, K, U), padded with any value.
        token_lengths: Tokens per transcript, (B, K); the loss of an empty one is
            -sum_t log p(blank | t).

    Returns:
        (B, K), in nats. A transcript longer than its frames allow has no alignment;
        its loss and gradient are 0.

    Raises:
        ValueError: On the CPU, a length or a token is out of its range.
    """
    log_probs = in_float32(log_probs)
    if not kernels.on_cpu(log_probs):
        return _symbol_nll(log_probs, lengths, tokens, token_lengths)
    # A transcript is a network with one alternative per bin.
    transcripts = tokens.flatten(0, 1).unsqueeze(2)
    certain = torch.ones_like(transcripts, dtype=torch.float64)
    skips = torch.zeros_like(certain).squeeze(2)
    network = ConfusionNetwork(transcripts, certain, skips, token_lengths.flatten())
    return graph_ctc(log_probs, lengths, network).view(token_lengths.shape)


def occupancies(
    log_probs: Tensor,
    lengths: Tensor,
    tokens: Tensor,
    token_lengths: Tensor,
    weights: Tensor,
) -> Tensor:
    """Compute P(token v at frame t | transcript), averaged over transcripts.

    Args:
        log_probs: Frame log-posteriors, (B, T, V); no gradient flows to them.
        lengths: Frames per utterance, (B,).
        tokens: Transcripts, (B, K, U), padded with any value.
        token_lengths: Tokens per transcript, (B, K).
        weights: Weight of each transcript, (B, K).

    Returns:
        (B, T, V): every frame sums to the weights of the transcripts that have an
        alignment; frames of padding are 0.
    """
    with torch.enable_grad():
        leaf = in_float32(log_probs).detach().requires_grad_(True)
        losses = ctc_nll(leaf, lengths, tokens, token_lengths)
        return -torch.autograd.grad((losses * weights).sum(), leaf)[0]


def _reduce(tokens: Tensor, token_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Give every run of equal tokens a symbol of its own.

    Equal neighbors must share a symbol, because CTC puts a blank between them; any
    other tokens may have their own, even if they are equal. Example: the transcript
    (7, 7, 3, 7) becomes labels (1, 1, 2, 3) of the symbols (blank, 7, 3, 7).

    Returns symbols (B, K, 1 + U), the token of each symbol, blank first; and labels
    (B, K, U + 1), the transcripts in symbols, with one column of padding: torch's CTC
    wants at least one column.
    """
    exists = frame_mask(token_lengths.flatten(), tokens.size(2)).view(tokens.shape)
    tokens = torch.where(exists, tokens, BLANK)
    new_run = torch.ones_like(tokens)
    new_run[..., 1:] = (tokens[..., 1:] != tokens[..., :-1]).long()
    labels = new_run.cumsum(-1)
    symbols = F.pad(torch.zeros_like(tokens), (1, 0)).scatter_(-1, labels, tokens)
    return symbols, F.pad(labels, (0, 1), value=1)


def _symbol_nll(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> Tensor:
    """Compute `ctc_nll` by torch's CTC, on the symbols of each transcript."""
    symbols, labels = _reduce(tokens, token_lengths)
    num = tokens.size(1)
    index = symbols.flatten(1).expand(log_probs.size(1), -1, -1)  # (T, B, K S)
    inputs = log_probs.transpose(0, 1).gather(2, index)
    inputs = inputs.view(len(inputs), -1, symbols.size(2))  # (T, B K, S)
    given = labels.flatten(0, 1), lengths.repeat_interleave(num)
    losses = _SymbolCTC.apply(inputs, *given, token_lengths.flatten())
    return losses.view(token_lengths.shape)


class _SymbolCTC(torch.autograd.Function):
    """torch's CTC of inputs (T, B, S), with the gradient of any inputs.

    torch's gradient with respect to its input x is exp(x) - occupancy, as if a
    log-softmax followed; so the occupancy is exp(x) - gradient. The forward pass
    computes it along with the loss.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, labels: Tensor, lengths: Tensor, label_lengths: Tensor
    ) -> Tensor:
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_(True)
            losses = F.ctc_loss(
                leaf, labels, lengths, label_lengths, blank=BLANK, reduction="none"
            )
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        feasible = losses.isfinite()
        exists = frame_mask(lengths, len(inputs)) & feasible.unsqueeze(1)
        # What is impossible has no occupancy; its gradient may be inf - inf.
        exists = exists.t().unsqueeze(2) & ~inputs.isneginf()
        occupancy = inputs.exp().sub_(gradient).masked_fill_(~exists, 0.0)
        ctx.save_for_backward(occupancy.clamp_(min=0.0))
        return torch.where(feasible, losses, 0.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (occupancy,) = ctx.saved_tensors
        return -grad.unsqueeze(1) * occupancy, None, None, None
