"""Sharpen (or flatten) the teacher's posteriors."""

import torch

from espnet_softpl.core.ranges import positive
from espnet_softpl.ctc import in_float32, sharpen
from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.shaping.base import Shaping, register


@register("sharpen")
class Sharpen(Shaping):
    """Divide the teacher's log-posteriors by a temperature, and renormalize.

    p_T <- softmax(log p_T / temperature). The transcript stays as it is. A temperature
    below 1 moves soft targets toward the best path. This opposes a slow flattening of
    teacher and student together.

    Use: against labels that flatten.

    Source: the sharpening of MixMatch (Berthelot et al. 2019,
    https://arxiv.org/abs/1905.02249), here by frame.

    Known failure: it makes errors as certain as the rest.

    Args:
        temperature: Greater than 0; below 1 sharpens, above 1 flattens, 1 changes
            nothing.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        self.temperature = positive("temperature", temperature)

    @torch.no_grad()
    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """See `Shaping.__call__`."""
        log_probs = sharpen(in_float32(label.log_probs), self.temperature)
        return label._replace(log_probs=log_probs)
