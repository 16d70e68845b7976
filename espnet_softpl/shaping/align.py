"""Align the teacher's use of tokens with that on labeled data."""

from typing import Any

import torch
from torch import Tensor

from espnet_softpl.core.ranges import not_negative
from espnet_softpl.ctc import in_float32
from espnet_softpl.labels.prior import RunningMean, with_floor
from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.shaping.base import Shaping, register, relabel


def align(log_probs: Tensor, prior: Tensor, mean: Tensor, power: float = 1.0) -> Tensor:
    """Multiply posteriors by (prior / mean) ** power, and renormalize.

    Args:
        log_probs: Frame log-posteriors, (B, T, V), float32 or float64.
        prior: The wanted mean posterior, (V,).
        mean: The mean posterior as it is, (V,). Both are floored at 1e-6, so that a
            token that neither has seen is left as it is, and the ratio is held in
            [1/10, 10]: that of a rare token is mostly chance.
        power: At least 0; 0 changes nothing, 1 aligns fully.
    """
    ratio = with_floor(prior.to(log_probs)) / with_floor(mean.to(log_probs))
    log_ratio = ratio.clamp(0.1, 10.0).log()
    return (log_probs + power * log_ratio).log_softmax(-1)


@register("align")
class Align(Shaping):
    """Distribution alignment: the mean posterior that labeled data has.

    p_T <- p_T * (q / m) ** power, renormalized; q the mean frame posterior on labeled
    data, m the running mean of the teacher's own posteriors, the batch itself included;
    the ratio is held in [1/10, 10]. The transcript is read again. Tokens (also blank)
    that the teacher says more often than in labeled data become less likely. While q is
    unknown nothing changes, but m is updated.

    Use: against a drift of the teacher's mix of tokens.

    Source: ReMixMatch (Berthelot et al. 2019, https://arxiv.org/abs/1911.09785), over
    frames here.

    Known failure: it assumes that labeled and unlabeled speech have the same mix of
    tokens and silence.

    Args:
        decay: Of the running mean per batch, in [0, 1].
        power: At least 0; 0 changes nothing, 1 is the full alignment.
    """

    needs_prior = True

    def __init__(self, decay: float = 0.99, power: float = 1.0) -> None:
        self.mean = RunningMean(decay)
        self.power = not_negative("power", power)

    @torch.no_grad()
    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """See `Shaping.__call__`."""
        self.mean.update(label.log_probs, label.lengths)
        if label.prior is None or self.mean.value is None:
            return label
        log_probs = in_float32(label.log_probs)
        return relabel(
            label, align(log_probs, label.prior, self.mean.value, self.power)
        )

    def state_dict(self) -> dict[str, Any]:
        """See `Shaping.state_dict`."""
        return self.mean.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Shaping.load_state_dict`."""
        self.mean.load_state_dict(state)
