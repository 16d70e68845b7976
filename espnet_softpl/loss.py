"""From the losses of utterances to the loss of a mini-batch."""

from __future__ import annotations

import torch


def weighted_mean(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Average the losses of a batch over all of its utterances.

    Args:
        losses: Loss of each utterance, (B,).
        weights: Trust in each utterance, (B,); 0 removes it exactly, even where its
            loss is not finite.

    Returns:
        sum(weights * losses) / B, a scalar: a dropped utterance does not make the
        others count more, as in ESPnet's own CTC.
    """
    kept = torch.where(weights > 0, losses, torch.zeros_like(losses))
    return (kept * weights).sum() / losses.numel()
