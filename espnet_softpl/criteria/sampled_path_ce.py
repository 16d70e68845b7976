"""Per-frame cross-entropy to alignments sampled from the teacher."""

from torch import Tensor

from espnet_softpl.core.ranges import at_least, positive
from espnet_softpl.criteria.base import PLCriterion, register
from espnet_softpl.criteria.frame_ce import frame_weights, path_ce
from espnet_softpl.ctc import in_float32
from espnet_softpl.ctc.sampling import sample_paths
from espnet_softpl.labels.pseudo_label import PseudoLabel


@register("sampled_path_ce")
class SampledPathCE(PLCriterion):
    """Cross-entropy to paths drawn per frame from softmax(log p_T / temperature).

    L = -1/K sum_k sum_t log p_S(pi_kt | t), pi_kt drawn independently. Its expectation
    is `soft_ce` at the same temperature, and so is the expectation of its gradient
    with respect to the student's logits, p_S - q_T; towards temperature 0 it is
    `best_path_ce`.

    Use: as a control for `sampled_ctc`.

    Source: alignments sampled from the teacher and used as frame targets, a noisy
    `soft_ce`; the sampling is that of Likhomanenko et al. 2022,
    https://arxiv.org/abs/2210.08711.

    Known failure: that of `soft_ce`, with noise. Sampling alone does not help.
    Collapsing the samples does (`sampled_ctc`).

    Args:
        temperature: Greater than 0; 1 samples from the teacher as it is.
        num_samples: K, at least 1.
    """

    frame_level = True
    weighs_frames = True

    def __init__(self, temperature: float = 1.0, num_samples: int = 1) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.num_samples = at_least("num_samples", num_samples, 1)

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`; every call draws anew."""
        log_probs = in_float32(log_probs)
        paths = sample_paths(
            pseudo_label.log_probs, lengths, self.num_samples, self.temperature
        )
        weights = frame_weights(lengths, pseudo_label.frame_weight, log_probs)
        return path_ce(log_probs, paths, weights)
