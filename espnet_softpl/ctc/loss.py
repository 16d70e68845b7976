"""The CTC likelihood of several transcripts at once, and the occupancies behind it.

K transcripts of each utterance. Both are computed on the tokens of the transcript
alone, so that time and memory grow with U and not with the vocabulary: on the CPU by
`graph_kernel`, elsewhere, and for what the kernel leaves over, by torch's own CTC.

Source: Graves et al. 2006, "Connectionist temporal classification"; the trick that
reads the occupancies off the gradient is derived at `_reduced_ctc`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_softpl.ctc import BLANK, frame_mask, in_float32, kernels
from espnet_softpl.ctc.compiled_ctc import compiled_nll
from espnet_softpl.ctc.confusion import ConfusionNetwork


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
    if not kernels.usable(log_probs):
        return _ReducedCTC.apply(log_probs, lengths, tokens, token_lengths)
    num = tokens.size(1)
    transcripts, ends = tokens.flatten(0, 1), token_lengths.flatten()

    def reference(rows: Tensor) -> Tensor:
        those = rows // num
        lists = transcripts[rows].unsqueeze(1), ends[rows].unsqueeze(1)
        return _ReducedCTC.apply(log_probs[those], lengths[those], *lists).squeeze(1)

    # A transcript is a network with one alternative per bin.
    certain = torch.ones_like(transcripts, dtype=torch.float64)
    network = ConfusionNetwork(
        transcripts.unsqueeze(2), certain.unsqueeze(2), 1.0 - certain, ends
    )
    return compiled_nll(log_probs, lengths, network, reference).view(-1, num)


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


def _reduced_ctc(
    log_probs: Tensor,
    lengths: Tensor,
    symbols: Tensor,
    labels: Tensor,
    token_lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run torch's CTC forward and backward on the symbols of each transcript.

    torch's gradient with respect to its input x is exp(x) - occupancy, as if a
    log-softmax followed; so the occupancy is exp(x) - gradient.

    Returns the losses (B, K), and the occupancies of the symbols, (T, B, K, S), 0 in
    frames of padding and for transcripts without an alignment.
    """
    num_frames, (batch, num, size) = log_probs.size(1), symbols.shape
    frames = log_probs.transpose(0, 1).unsqueeze(2).expand(-1, -1, num, -1)
    index = symbols.unsqueeze(0).expand(num_frames, -1, -1, -1)  # (T, B, K, S)
    # A symbol that is nobody's, or a repeat of blank, must not be -inf: inf - inf.
    inputs = frames.gather(3, index).clamp_(min=torch.finfo(log_probs.dtype).min / 4)
    inputs = inputs.view(num_frames, batch * num, size)
    frame_lengths = lengths.repeat_interleave(num)
    with torch.enable_grad():
        inputs.requires_grad_(True)
        losses = F.ctc_loss(
            inputs,
            labels.view(batch * num, -1),
            frame_lengths,
            token_lengths.flatten(),
            blank=BLANK,
            reduction="none",
        )
        feasible = torch.isfinite(losses)
        (gradient,) = torch.autograd.grad(losses.sum(), inputs)
    gamma = inputs.detach().exp_().sub_(gradient)
    exists = frame_mask(frame_lengths, num_frames) & feasible.unsqueeze(1)
    gamma = torch.where(exists.t().unsqueeze(2), gamma, 0.0).clamp_(min=0.0)
    losses = torch.where(feasible, losses.detach(), 0.0)
    return losses.view(batch, num), gamma.view(num_frames, batch, num, size)


def _expand(
    reduced: Tensor, weights: Tensor, symbols: Tensor, shape: torch.Size
) -> Tensor:
    """Sum weighted occupancies of symbols, (T, B, K, S), into those of tokens."""
    num_frames = reduced.size(0)
    reduced = (reduced * weights.to(reduced.dtype).unsqueeze(-1)).flatten(2)
    index = symbols.flatten(1).unsqueeze(0).expand(num_frames, -1, -1)
    full = reduced.new_zeros(shape)
    full.transpose(0, 1).scatter_add_(2, index, reduced)
    return full


class _ReducedCTC(torch.autograd.Function):
    """See `ctc_nll`; the forward pass computes the gradient along with the loss."""

    @staticmethod
    def forward(
        ctx: Any,
        log_probs: Tensor,
        lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
    ) -> Tensor:
        symbols, labels = _reduce(tokens, token_lengths)
        losses, gamma = _reduced_ctc(log_probs, lengths, symbols, labels, token_lengths)
        ctx.save_for_backward(gamma, symbols)
        ctx.shape = log_probs.shape
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gamma, symbols = ctx.saved_tensors
        return _expand(gamma, -grad, symbols, ctx.shape), None, None, None
