"""Two augmented views of the same audio teach each other (CR-CTC)."""

from torch import Tensor

from espnet_softpl.core.ranges import not_negative
from espnet_softpl.criteria.base import PLCriterion, register
from espnet_softpl.criteria.frame_ce import distribution_ce, frame_weights
from espnet_softpl.ctc import in_float32
from espnet_softpl.labels.pseudo_label import PseudoLabel


def frame_kl(log_probs: Tensor, target_log_probs: Tensor, weights: Tensor) -> Tensor:
    """Compute KL(target || p), summed over frames; the gradient reaches p only.

    Arguments and result as for `distribution_ce`.
    """
    target = target_log_probs.detach().to(log_probs.dtype)
    entropy = distribution_ce(target, target, weights)
    return distribution_ce(log_probs, target, weights) - entropy


@register("consistency")
class Consistency(PLCriterion):
    """Symmetric KL divergence between two views, each the other's target.

    L = 1/2 sum_t [KL(sg(p_b) || p_a) + KL(sg(p_a) || p_b)] with a, b two augmentations
    of one utterance and sg the stop-gradient; the gradient with respect to the logits
    of view a is (p_a - p_b) / 2. Alone it needs no teacher. If the label has no second
    view, the teacher's clean view takes its place, and L is KL(p_T || p_S). In `blend`
    the other criteria are averaged over both views.

    Use: beside a transcript-level part in `blend`.

    Source: CR-CTC (Yao et al. 2024, https://arxiv.org/abs/2410.05101), there on
    labeled data beside a CTC loss on each view.

    Known failure: alone it has the constant distribution as its minimum, as `soft_ce`
    has. It needs the labeled loss, or a transcript-level part in `blend`, beside it.

    Args:
        labeled_weight: Weight of the same term on labeled batches, relative to their
            CTC loss, at least 0; 0 leaves labeled batches as they are. CR-CTC's
            published code uses 0.2.
    """

    frame_level = True
    weighs_frames = True
    needs_posteriors = False
    views = 2

    def __init__(self, labeled_weight: float = 0.0) -> None:
        super().__init__()
        self.labeled_weight = not_negative("labeled_weight", labeled_weight)

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`."""
        log_probs = in_float32(log_probs)
        weights = frame_weights(lengths, pseudo_label.frame_weight, log_probs)
        if pseudo_label.second_view is None:
            return frame_kl(log_probs, pseudo_label.log_probs, weights)
        return self._symmetric(log_probs, pseudo_label.second_view, weights)

    def on_labeled(
        self, log_probs: Tensor, lengths: Tensor, second_view: Tensor
    ) -> Tensor:
        """See `PLCriterion.on_labeled`."""
        log_probs = in_float32(log_probs)
        weights = frame_weights(lengths, None, log_probs)
        return self.labeled_weight * self._symmetric(log_probs, second_view, weights)

    @staticmethod
    def _symmetric(one: Tensor, other: Tensor, weights: Tensor) -> Tensor:
        other = in_float32(other)
        return 0.5 * (frame_kl(one, other, weights) + frame_kl(other, one, weights))
