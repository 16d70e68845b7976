"""Per-frame cross-entropy to the teacher's CTC occupancies: soft in time."""

from torch import Tensor

from espnet_softpl.criteria.base import register
from espnet_softpl.criteria.frame_ce import frame_weights, probability_ce
from espnet_softpl.criteria.transcripts import TranscriptsCriterion
from espnet_softpl.ctc import in_float32, sharpen
from espnet_softpl.ctc.loss import occupancies
from espnet_softpl.labels.pseudo_label import PseudoLabel


@register("occupancy_ce")
class OccupancyCE(TranscriptsCriterion):
    """Cross-entropy to P_T(token at frame t | transcript).

    L = -sum_t sum_v g_T(v | t) log p_S(v | t), g_T = sum_n w_n gamma_T(v | t; y_n): the
    teacher's occupancies given the transcripts y_n of its N-best list (its greedy
    transcript for N = 1), w_n their normalized posteriors. Soft about where tokens
    are, and consistent with the transcripts: what the teacher gives to other tokens is
    taken away. The gradient with respect to the student's logits is p_S - g_T. Over
    all transcripts g_T is p_T itself, and this is `soft_ce`.

    Source: the posterior targets of forward-backward (soft forced alignment); here as
    a pseudo-label between `viterbi_ce` and `soft_ce`.

    Known failure: it keeps the frames sharp, and still tells the student where the
    tokens are; a label of wrong tokens is as wrong as that of `hard_ctc`.

    Settings: `TranscriptsCriterion`; the temperature also holds for the occupancies.
    """

    frame_level = True

    def __init__(
        self, nbest: int = 1, beam_size: int | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__(nbest, beam_size, temperature)
        self.needs_posteriors = True  # For the occupancies, of one transcript too.

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`."""
        log_probs = in_float32(log_probs)
        hypotheses = self.transcripts(pseudo_label)
        teacher = sharpen(in_float32(pseudo_label.log_probs), self.temperature)
        target = occupancies(teacher.detach(), lengths, *hypotheses)
        weights = frame_weights(lengths, pseudo_label.frame_weight, log_probs)
        return probability_ce(log_probs, target, weights)
