"""What the teacher hears where SpecAugment has masked the student's audio."""

from torch import Tensor

from espnet_softpl.criteria.base import PLCriterion, register
from espnet_softpl.criteria.consistency import frame_kl
from espnet_softpl.criteria.frame_ce import frame_weights
from espnet_softpl.ctc import in_float32
from espnet_softpl.labels.pseudo_label import PseudoLabel


@register("masked_kl")
class MaskedKL(PLCriterion):
    """KL divergence to the teacher's frames that the student cannot hear.

    L = sum_{t masked} KL(p_T(t) || p_S(t)), over the frames that a time mask of
    SpecAugment covers in the student's audio and not in the teacher's. The student must
    guess these frames from their neighbors, and more than one token may fit. A
    distribution can say so, a single token cannot. The gradient with respect to the
    student's logits is p_S - p_T at masked frames and 0 at all others. If no masks are
    known, all frames count: `soft_ce` less the teacher's entropy.

    Use: beside a transcript-level part in `blend`.

    Source: ours. CR-CTC (Yao et al. 2024, https://arxiv.org/abs/2410.05101) names
    masked prediction as one effect of its consistency loss, above all with more time
    masks. Its published code has 2.5 times as many, a weight of 0.2 and a linear ramp
    up to it. There both views are masked and all frames count, as in `consistency`.

    Known failure: frames without a mask are not taught. It needs the labeled loss, or a
    transcript-level part in `blend`, beside it. Alone it has the fixed points of
    `soft_ce`. If a mask hides whole words, the best guess is the mean of what the
    teacher may say there, which is flat.
    """

    frame_level = True
    weighs_frames = True
    needs_masked = True

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`."""
        log_probs = in_float32(log_probs)
        weights = frame_weights(lengths, pseudo_label.frame_weight, log_probs)
        if pseudo_label.masked is not None:
            weights = weights * pseudo_label.masked
        return frame_kl(log_probs, pseudo_label.log_probs, weights)
