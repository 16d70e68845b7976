"""Per-frame cross-entropy to a distribution or to a path, summed over the frames."""

from typing import Any

import torch
from torch import Tensor

from espnet_softpl.ctc import PADDING, frame_mask


def frame_weights(lengths: Tensor, weight: Tensor | None, like: Tensor) -> Tensor:
    """Return the weight of every frame, (B, T), 0 in the padding.

    Args:
        lengths: Frames per utterance, (B,).
        weight: Trust in each frame, (B, T), or None for full trust.
        like: (B, T, ...), gives the size and the floating-point type.
    """
    mask = frame_mask(lengths, like.size(1))
    if weight is None:
        return mask.to(like.dtype)
    return torch.where(mask, weight.to(like.dtype), 0.0)


def distribution_ce(
    log_probs: Tensor, target_log_probs: Tensor, weights: Tensor
) -> Tensor:
    """Compute -sum_t w_t sum_v q(v | t) log p(v | t), without a copy of the target.

    Args:
        log_probs: log p, (B, T, V), float32 or float64.
        target_log_probs: log q, (B, T, V); no gradient flows to it. A token of
            probability exactly 0 costs nothing, whatever p says.
        weights: w, (B, T), 0 in the padding.

    Returns:
        (B,), in nats.
    """
    target = target_log_probs.detach().to(log_probs.dtype)
    return -(_ExpectedLogProb.apply(log_probs, target, True) * weights).sum(-1)


def probability_ce(log_probs: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Compute the same as `distribution_ce` from q itself, normalized or not."""
    target = target.detach().to(log_probs.dtype)
    return -(_ExpectedLogProb.apply(log_probs, target, False) * weights).sum(-1)


def path_ce(log_probs: Tensor, paths: Tensor, weights: Tensor) -> Tensor:
    """Compute -sum_t w_t log p(path_t | t), a mean over the paths.

    Args:
        log_probs: log p, (B, T, V), float32 or float64.
        paths: Tokens, (B, K, T); -1 costs nothing.
        weights: w, (B, T), 0 in the padding.

    Returns:
        (B,), in nats.
    """
    index = paths.transpose(1, 2)
    picked = log_probs.gather(2, index.clamp(min=0))
    picked = torch.where(index == PADDING, 0.0, picked)
    return -(picked.mean(2) * weights).sum(-1)


class _ExpectedLogProb(torch.autograd.Function):
    """sum_v q(v) log p(v) over the last axis, from q or from log q.

    Autograd would keep the product; here the gradient, q, is made when needed, so that
    the peak is one tensor of the size of the input.
    """

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, target: Tensor, is_log: bool) -> Tensor:
        ctx.save_for_backward(target)
        ctx.is_log = is_log
        probs = target.exp() if is_log else target
        # 0 * -inf would be NaN.
        nothing = probs == 0
        products = probs.mul_(log_probs) if is_log else probs * log_probs
        return products.masked_fill_(nothing, 0.0).sum(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (target,) = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        gradient = target.exp().mul_(grad) if ctx.is_log else target * grad
        return gradient, None, None
