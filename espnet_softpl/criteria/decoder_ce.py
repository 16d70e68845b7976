"""Cross-entropy of an attention decoder, at P positions, to a pseudo-label."""

import math

import torch
from torch import Tensor

from espnet_softpl.criteria.frame_ce import distribution_ce
from espnet_softpl.ctc import PADDING, frame_mask, in_float32
from espnet_softpl.labels.pseudo_label import DecoderLabel


def with_ends(
    tokens: Tensor, token_lengths: Tensor, sos: int, eos: int
) -> tuple[Tensor, Tensor]:
    """Make a decoder's input and its target from transcripts, as ESPnet does.

    Args:
        tokens: (B, U), padded with any value.
        token_lengths: (B,), at most U.
        sos: The token that starts a sentence.
        eos: The token that ends it.

    Returns:
        Two of (B, U + 1): the transcript after `sos`, padded with `eos`, and the
        transcript with `eos` after it, padded with -1.
    """
    mask = frame_mask(token_lengths, tokens.size(1))
    edge = tokens.new_full((tokens.size(0), 1), sos)
    inputs = torch.cat([edge, tokens.masked_fill(~mask, eos)], 1)
    targets = torch.nn.functional.pad(tokens.masked_fill(~mask, PADDING), (0, 1))
    targets[:, -1] = PADDING
    return inputs, targets.scatter(1, token_lengths.unsqueeze(1), eos)


def hard_losses(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Compute the cross-entropy to a token at each position, smoothed as ESPnet does.

    The target distribution q gives 1 - smoothing to the token and the rest evenly to
    the others; the loss is KL(q || p), which is the cross-entropy for no smoothing.

    Args:
        logits: A decoder's scores, (B, P, V).
        targets: Tokens, (B, P); -1 costs nothing.
        smoothing: ESPnet's `lsm_weight`, in [0, 1).

    Returns:
        (B,), in nats, a sum over positions.
    """
    log_probs = in_float32(logits).log_softmax(-1)
    mask = targets != PADDING
    picked = log_probs.gather(2, targets.clamp(min=0).unsqueeze(2)).squeeze(2)
    losses = -picked
    if smoothing:
        others = log_probs.size(-1) - 1
        each = smoothing / others
        rest = log_probs.sum(-1) - picked
        entropy = -(1.0 - smoothing) * math.log(1.0 - smoothing)
        entropy -= smoothing * math.log(each)
        losses = (1.0 - smoothing) * losses - each * rest - entropy
    return losses.masked_fill(~mask, 0.0).sum(1)


def soft_losses(logits: Tensor, label: DecoderLabel) -> Tensor:
    """Compute the cross-entropy to the teacher's distribution at each position.

    L = -sum_u sum_v q(v | u) log p(v | u), (B,), in nats, from logits (B, P, V) and a
    label with `log_probs`; the gradient with respect to the logits is p - q.
    """
    log_probs = in_float32(logits).log_softmax(-1)
    mask = frame_mask(label.lengths, log_probs.size(1)).to(log_probs.dtype)
    return distribution_ce(log_probs, label.log_probs, mask)


def decoder_disagreement(label: DecoderLabel, targets: Tensor) -> Tensor:
    """Compute the share of positions at which decoder and CTC head differ.

    A scalar in [0, 1], from what the teacher's decoder answered and the transcript that
    it was fed, with the end, (B, P), padded with -1.
    """
    mask = targets != PADDING
    return (mask & (label.tokens != targets)).sum() / mask.sum()
