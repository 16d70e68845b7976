"""Per-frame cross-entropy to the teacher's distribution: the plain soft label.

B utterances, T frames after subsampling, V tokens with blank.
"""

from __future__ import annotations

import math

import torch

from espnet_softpl.criteria.base import PLCriterion, PseudoLabel, register
from espnet_softpl.ctc import frame_mask


def soft_ce(
    log_probs: torch.Tensor,
    lengths: torch.Tensor,
    teacher_log_probs: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Compute the cross-entropy of two frame distributions, summed over the frames.

    Args:
        log_probs: The student's normalized frame log-posteriors, (B, T, V). Half
            precision is computed in float32.
        lengths: Frames per utterance, (B,).
        teacher_log_probs: The teacher's, (B, T, V); no gradient flows to it.
        temperature: The teacher's distribution is softmax(log_probs / temperature):
            below 1 sharpens it, above 1 flattens it. Greater than 0.

    Returns:
        (B,), in nats.
    """
    if log_probs.dtype in (torch.float16, torch.bfloat16):
        log_probs = log_probs.float()
    teacher = teacher_log_probs.detach().to(log_probs.dtype)
    if temperature != 1.0:
        teacher = (teacher / temperature).log_softmax(-1)
    target = teacher.exp()
    # A student that gives a token probability 0 where the teacher does too costs
    # nothing: 0 * -inf would be NaN.
    products = target * log_probs.masked_fill(target == 0, 0.0)
    mask = frame_mask(lengths, log_probs.size(1))
    per_frame = products.sum(-1).masked_fill(~mask, 0.0)
    return -per_frame.sum(-1)


@register("soft_ce")
class SoftCE(PLCriterion):
    """Cross-entropy to the teacher's whole distribution at every frame.

    L = -sum_t sum_v q_T(v | t) log p_S(v | t), q_T = softmax(log p_T / temperature).
    Frames of CTC are independent given the audio, so this equals the cross-entropy
    between the two distributions over alignments. The gradient with respect to the
    student's logits is p_S - q_T.

    Source: Likhomanenko et al. 2022, https://arxiv.org/abs/2211.06007; here without
    the authors' constant scale, and with padding masked.

    Known failure: any distribution that teacher and student share has zero gradient
    (at temperature 1), so nothing but the labeled loss opposes a drift into one
    degenerate distribution at every frame.

    Args:
        temperature: Of the teacher's distribution, greater than 0; 1 leaves it as it
            is, below 1 sharpens, above 1 flattens.

    Raises:
        ValueError: The temperature is not a finite number greater than 0.
    """

    frame_level = True

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(
                f"temperature must be a finite number > 0, got {temperature!r}"
            )
        self.temperature = float(temperature)

    def forward(
        self,
        log_probs: torch.Tensor,
        lengths: torch.Tensor,
        pseudo_label: PseudoLabel,
    ) -> torch.Tensor:
        """See `PLCriterion.forward` and `soft_ce`."""
        return soft_ce(log_probs, lengths, pseudo_label.log_probs, self.temperature)
