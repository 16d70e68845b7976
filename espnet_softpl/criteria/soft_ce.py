"""Per-frame cross-entropy to the teacher's distribution: the plain soft label."""

import torch.nn.functional as F
from torch import Tensor

from espnet_softpl.core.ranges import at_least, choice, positive
from espnet_softpl.criteria.base import PLCriterion, register
from espnet_softpl.criteria.frame_ce import distribution_ce, frame_weights
from espnet_softpl.ctc import BLANK, frame_mask, in_float32, sharpen
from espnet_softpl.labels.pseudo_label import PseudoLabel


def soft_ce(
    log_probs: Tensor,
    lengths: Tensor,
    teacher_log_probs: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute the cross-entropy of two frame distributions, summed over the frames.

    Args:
        log_probs: The student's normalized frame log-posteriors, (B, T, V).
        lengths: Frames per utterance, (B,).
        teacher_log_probs: The teacher's, (B, T, V); no gradient flows to it.
        temperature: Of the teacher's distribution, greater than 0.
        weights: Weight of every frame, (B, T), or None for 1.

    Returns:
        (B,), in nats.
    """
    log_probs = in_float32(log_probs)
    target = sharpen(teacher_log_probs.detach(), temperature)
    weights = frame_weights(lengths, weights, log_probs)
    return distribution_ce(log_probs, target, weights)


def near_tokens(teacher_log_probs: Tensor, lengths: Tensor, window: int) -> Tensor:
    """Mark the frames at most `window` frames away from one that is not blank, (B, T).

    From the teacher's log-posteriors, (B, T, V), by the best token of each frame.
    """
    spikes = teacher_log_probs.argmax(-1) != BLANK
    spikes = spikes & frame_mask(lengths, spikes.size(1))
    if window == 0:
        return spikes
    near = F.max_pool1d(spikes.float().unsqueeze(1), 2 * window + 1, 1, window)
    return near.squeeze(1) > 0


@register("soft_ce")
class SoftCE(PLCriterion):
    """Cross-entropy to the teacher's whole distribution at every frame.

    L = -sum_t sum_v q_T(v | t) log q_S(v | t), q_T = softmax(log p_T / temperature),
    q_S = softmax(log p_S / student_temperature). Frames of CTC are independent given
    the audio, so this equals the cross-entropy between the two distributions over
    alignments. The gradient with respect to the student's logits is
    (q_S - q_T) / student_temperature.

    Use: as the plain soft label, with a guard.

    Source: Likhomanenko et al. 2022, https://arxiv.org/abs/2211.06007; here without
    the authors' constant scale, and with padding masked. Temperature and its square:
    Hinton et al. 2015, https://arxiv.org/abs/1503.02531. Blank handling: Hilmes et
    al. 2025, https://arxiv.org/abs/2506.01503.

    Known failure: any distribution that teacher and student share has zero gradient
    (at temperature 1), so nothing but the labeled loss opposes a drift into one
    degenerate distribution at every frame.

    Args:
        temperature: Of the teacher's distribution, greater than 0; 1 leaves it as it
            is, below 1 sharpens, above 1 flattens.
        student_temperature: Of the student's distribution, greater than 0. Both
            temperatures equal is knowledge distillation.
        scale_by_square: Multiply by temperature ** 2, which keeps the size of the
            gradient of distillation when both temperatures change.
        blank: `all` uses every frame; `drop` only those whose best token, for the
            teacher, is not blank; `symmetric` those and `window` frames on both sides.
        window: Frames on each side for `symmetric`, at least 0 (0 is `drop`).
    """

    frame_level = True
    weighs_frames = True

    def __init__(
        self,
        temperature: float = 1.0,
        student_temperature: float = 1.0,
        scale_by_square: bool = False,
        blank: str = "all",
        window: int = 1,
    ) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.student_temperature = positive("student_temperature", student_temperature)
        self.scale = self.temperature**2 if scale_by_square else 1.0
        self.blank = choice("blank", blank, ("all", "drop", "symmetric"))
        self.window = at_least("window", window, 0)

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward` and `soft_ce`."""
        teacher, weights = pseudo_label.log_probs, pseudo_label.frame_weight
        if self.blank != "all":
            window = self.window if self.blank == "symmetric" else 0
            near = near_tokens(teacher, lengths, window)
            weights = near if weights is None else weights * near
        if self.student_temperature != 1.0:
            log_probs = sharpen(in_float32(log_probs), self.student_temperature)
        losses = soft_ce(log_probs, lengths, teacher, self.temperature, weights)
        return losses if self.scale == 1.0 else self.scale * losses
