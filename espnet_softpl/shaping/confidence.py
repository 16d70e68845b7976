"""Weigh frames, tokens and utterances by how sure the teacher is of them."""

import torch
from torch import Tensor

from espnet_softpl.core.ranges import fraction, not_negative
from espnet_softpl.ctc import frame_mask
from espnet_softpl.labels.confidence import (
    frame_confidence,
    token_confidence,
    utterance_confidence,
)
from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.shaping.base import Shaping, register


def weigh_frames(label: PseudoLabel, weight: Tensor) -> PseudoLabel:
    """Multiply a label's frame weights, if any, by (B, T) in [0, 1]; padding gets 0."""
    if label.frame_weight is not None:
        weight = weight * label.frame_weight
    mask = frame_mask(label.lengths, weight.size(1))
    return label._replace(frame_weight=torch.where(mask, weight, 0.0))


@register("frame_confidence")
class FrameConfidence(Shaping):
    """Leave out the frames of which the teacher is not sure.

    w_t <- w_t * [max_v p_T(v | t) >= threshold].

    Use: against learning from doubtful frames.

    Source: USR (Haliassos et al. 2024, https://arxiv.org/abs/2411.02256).

    Known failure: a CTC model is most certain of blank, so a high threshold leaves
    mostly blank frames.

    Args:
        threshold: In [0, 1]; 0 keeps every frame.
    """

    sets_frame_weight = True
    keeps_transcripts = True

    def __init__(self, threshold: float = 0.8) -> None:
        self.threshold = fraction("threshold", threshold)

    @torch.no_grad()
    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """See `Shaping.__call__`."""
        confidence = frame_confidence(label.log_probs)
        return weigh_frames(label, (confidence >= self.threshold).to(confidence))


class Weighing(Shaping):
    """The base of weights that are a power of a confidence, above a threshold.

    Args:
        power: At least 0; 0 weighs everything above the threshold alike.
        threshold: In [0, 1]; what is below it has weight 0.
    """

    keeps_transcripts = True

    def __init__(self, power: float = 1.0, threshold: float = 0.0) -> None:
        self.power = not_negative("power", power)
        self.threshold = fraction("threshold", threshold)

    def weight_of(self, confidence: Tensor) -> Tensor:
        """Turn confidence of any shape, in [0, 1], into weights of that shape."""
        return torch.where(confidence >= self.threshold, confidence**self.power, 0.0)


@register("token_confidence")
class TokenConfidence(Weighing):
    """Weigh all frames of a token by its highest posterior.

    w_t <- w_t * c_t ** power, c_t the highest posterior within the run of frames with
    the same best token around t, blank included; 0 if c_t is below the threshold. So
    the frames at a token's edges, where the teacher is never sure, keep the token's
    weight.

    Use: against learning from doubtful tokens.

    Source: the thresholds of USR (Haliassos et al. 2024,
    https://arxiv.org/abs/2411.02256) by token instead of by frame; ours.

    Known failure: tokens that the teacher has missed lie inside runs of blank, and get
    the weight of the most certain frame of that run.

    Settings: `Weighing`.
    """

    sets_frame_weight = True

    @torch.no_grad()
    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """See `Shaping.__call__`."""
        confidence = token_confidence(label.log_probs, label.lengths)
        return weigh_frames(label, self.weight_of(confidence))


@register("utterance_confidence")
class UtteranceConfidence(Weighing):
    """Weigh utterances by the mean confidence of their tokens.

    w_b <- w_b * c_b ** power, c_b the geometric mean of the best posterior over the
    frames whose best token is not blank (over all if there are none); 0 if c_b
    is below the threshold.

    Use: against learning from doubtful utterances.

    Source: ours, a likelihood normalized by length (compare Kahn et al. 2019,
    https://arxiv.org/abs/1909.09116), on the frames of the best CTC path.

    Known failure: the teacher is most certain of short and frequent phrases, so
    training moves toward them. A teacher that is sure of its errors is believed.

    Settings: `Weighing`.
    """

    @torch.no_grad()
    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """See `Shaping.__call__`."""
        confidence = utterance_confidence(label.log_probs, label.lengths)
        return label._replace(weight=label.weight * self.weight_of(confidence))
