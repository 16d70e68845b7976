"""Per-frame cross-entropy to the teacher's best path: a hard label without CTC."""

from torch import Tensor

from espnet_softpl.criteria.base import PLCriterion, register
from espnet_softpl.criteria.frame_ce import frame_weights, path_ce
from espnet_softpl.ctc import in_float32
from espnet_softpl.labels.pseudo_label import PseudoLabel


@register("best_path_ce")
class BestPathCE(PLCriterion):
    """Cross-entropy to the teacher's best token of every frame.

    L = -sum_t log p_S(argmax_v p_T(v | t) | t): there is no sum over alignments, so the
    student must put each token where the teacher puts it. The gradient with respect to
    the student's logits is p_S - onehot. It is the limit of `soft_ce` and of
    `sampled_path_ce` as the temperature goes to 0.

    Use: to see hard labels without a sum over alignments.

    Source: the diagnostic counterpart of `hard_ctc`; with a confidence mask the CTC
    branch of USR (Haliassos et al. 2024, https://arxiv.org/abs/2411.02256).

    Known failure: hard labels do not prevent collapse here. Wrong frames are confirmed
    one by one, and nothing makes the frames spell a consistent transcript.
    """

    frame_level = True
    weighs_frames = True

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`."""
        log_probs = in_float32(log_probs)
        path = pseudo_label.log_probs.argmax(-1)
        weights = frame_weights(lengths, pseudo_label.frame_weight, log_probs)
        return path_ce(log_probs, path.unsqueeze(1), weights)
