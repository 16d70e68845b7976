"""Entropy of the mean posterior: against the use of few tokens."""

import torch
from torch import Tensor

from espnet_softpl.regularizers.base import MeanRegularizer, register


def negative_entropy(mean: Tensor) -> Tensor:
    """Compute sum_v m(v) log m(v), a scalar in nats, in [-log V, 0], from m, (V,).

    Shares of exactly 0 cost nothing, and have a finite gradient.
    """
    tiny = torch.finfo(mean.dtype).tiny
    return (mean * mean.clamp(min=tiny).log()).sum()


@register("mean_entropy")
class MeanEntropy(MeanRegularizer):
    """Minus the entropy of the mean posterior, for every frame.

    L_b = -weight * T_b * H(m), m the mean of p_S over all frames of the batch's kept
    utterances. It is lowest if the batch uses all tokens equally, so it opposes a
    student that says few tokens, or blank only. `frame_weight` is ignored.

    Use: against few tokens, or blank only.

    Source: ours, the diversity term of mutual information maximization (compare SHOT,
    Liang et al. 2020, https://arxiv.org/abs/2002.08546), here over frames.

    Known failure: it does not oppose flattening, because a flat distribution at every
    frame has the highest mean entropy. It also pulls toward uniform use of tokens,
    which no language has (`prior_kl` pulls toward that of the labeled data).

    Settings: `MeanRegularizer`.
    """

    def term(self, mean: Tensor, prior: Tensor | None) -> Tensor:
        """See `MeanRegularizer.term`."""
        return negative_entropy(mean)
