"""CTC on transcripts sampled from the teacher: a soft label of whole sequences."""

from torch import Tensor

from espnet_softpl.core.ranges import at_least, positive
from espnet_softpl.criteria.base import PLCriterion, register
from espnet_softpl.ctc import collapse, weigh
from espnet_softpl.ctc.loss import ctc_nll
from espnet_softpl.ctc.sampling import sample_paths
from espnet_softpl.labels.pseudo_label import PseudoLabel


def sample_transcripts(
    log_probs: Tensor, lengths: Tensor, num_samples: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw paths frame by frame, as `sample_paths`, and collapse them.

    Returns tokens (B, K, U) padded with -1, and token_lengths (B, K).
    """
    return collapse(sample_paths(log_probs, lengths, num_samples, temperature), lengths)


@register("sampled_ctc")
class SampledCTC(PLCriterion):
    """CTC on K transcripts sampled from the teacher, averaged.

    L = -1/K sum_k log P_S(y_k), y_k = collapse(pi_k), pi_kt ~ softmax(log
    p_T / temperature) independently per frame. At temperature 1 it is an unbiased
    estimate of the transcript-level cross-entropy -sum_y P_T(y) log P_S(y), and its
    gradient with respect to the student's logits, p_S - mean_k gamma_S(y_k), one of
    p_S - E_{y ~ P_T} gamma_S(y): it is soft over transcripts, and leaves open where
    their tokens are. Towards temperature 0 it is `hard_ctc`. Both settings may be
    scheduled.

    Use: for doubt between transcripts, without a search.

    Source: Likhomanenko et al. 2022, https://arxiv.org/abs/2210.08711 (one sample in
    place of the greedy transcript); the average of K is ours.

    Known failure: at temperature 1 a teacher with uncertain frames samples noisy
    transcripts (independent frames spell what nobody would say). A larger K or a
    temperature below 1 helps. A flat teacher samples noise, and a silent one samples
    empty transcripts. If the label excludes empty transcripts, the mean is over the
    others.

    Args:
        temperature: Greater than 0.
        num_samples: K, at least 1; the cost is K times that of `hard_ctc`.
    """

    trains_decoder = True
    weighs_frames = True

    def __init__(self, temperature: float = 1.0, num_samples: int = 1) -> None:
        super().__init__()
        self.temperature = positive("temperature", temperature)
        self.num_samples = at_least("num_samples", num_samples, 1)

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`; every call draws anew."""
        tokens, token_lengths = sample_transcripts(
            pseudo_label.log_probs, lengths, self.num_samples, self.temperature
        )
        log_probs = weigh(log_probs, pseudo_label.frame_weight)
        losses = ctc_nll(log_probs, lengths, tokens, token_lengths)  # (B, K)
        if not pseudo_label.excludes_empty:
            return losses.mean(1)
        counts = token_lengths > 0
        return (losses * counts).sum(1) / counts.sum(1).clamp(min=1)
