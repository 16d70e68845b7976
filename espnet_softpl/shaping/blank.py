"""Shift the teacher's balance between blank and tokens."""

import torch
from torch import Tensor

from espnet_softpl.core.ranges import finite, not_negative
from espnet_softpl.ctc import BLANK, in_float32
from espnet_softpl.labels.prior import with_floor
from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.shaping.base import Shaping, register, relabel


def shift_blank(log_probs: Tensor, shift: float | Tensor) -> Tensor:
    """Add a number of nats to the log-posterior of blank, and renormalize (B, T, V)."""
    shifted = log_probs.clone()
    shifted[..., BLANK] += shift
    return shifted.log_softmax(-1)


@register("blank")
class ShiftBlank(Shaping):
    """Make blank more or less likely, by a constant and by its prior.

    log p_T(blank) += bias - prior_scale * log(q / (1 - q)), renormalized; q the mean
    posterior of blank on labeled data. The transcript is read again. A bias below 0
    makes the teacher say more tokens, against labels that vanish. So does prior_scale
    if blank is more frequent than all tokens together. While q is unknown, only the
    bias acts.

    Use: against labels that vanish or stutter.

    Source: ours; division by priors as in hybrid models, of blank against the rest.

    Known failure: a large shift splits tokens or inserts some that nobody said.

    Args:
        bias: In nats, finite; 0 changes nothing.
        prior_scale: At least 0; 0 leaves the prior out.
    """

    def __init__(self, bias: float = 0.0, prior_scale: float = 0.0) -> None:
        self.bias = finite("bias", bias)
        self.prior_scale = not_negative("prior_scale", prior_scale)
        self.needs_prior = self.prior_scale != 0.0

    @torch.no_grad()
    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """See `Shaping.__call__`."""
        log_probs = in_float32(label.log_probs)
        shift: float | Tensor = self.bias
        if self.needs_prior and label.prior is not None:
            odds = with_floor(label.prior.to(log_probs))[BLANK].logit()
            shift = self.bias - self.prior_scale * odds
        return relabel(label, shift_blank(log_probs, shift))
