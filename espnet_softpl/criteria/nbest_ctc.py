"""CTC on the teacher's N best transcripts, weighted by their posteriors."""

from torch import Tensor

from espnet_softpl.criteria.base import register
from espnet_softpl.criteria.transcripts import TranscriptsCriterion
from espnet_softpl.ctc import weigh
from espnet_softpl.ctc.loss import ctc_nll
from espnet_softpl.labels.pseudo_label import PseudoLabel


@register("nbest_ctc")
class NBestCTC(TranscriptsCriterion):
    """Transcript-level cross-entropy on an N-best list.

    L = -sum_n w_n log P_S(y_n), w_n = P_T(y_n) / sum_m P_T(y_m): the transcript-level
    soft loss -sum_y P_T(y) log P_S(y) with only the N best transcripts and no sampling
    noise. The gradient with respect to the student's logits is p_S - sum_n w_n
    gamma_S(y_n). N = 1 is `hard_ctc`.

    Use: for doubt between transcripts, without sampling noise.

    Source: the N-best form of the transcript-level soft label; compare GTC (Moritz et
    al. 2020, https://arxiv.org/abs/2010.15653), whose loss is the logarithm of a sum
    over the list and not a sum of logarithms.

    Known failure: lists of near-copies (differing in one letter) cost N times as much
    as `hard_ctc` and add little.

    Settings: `TranscriptsCriterion`.
    """

    trains_decoder = True

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`."""
        tokens, token_lengths, weights = self.transcripts(pseudo_label)
        log_probs = weigh(log_probs, pseudo_label.frame_weight)
        losses = ctc_nll(log_probs, lengths, tokens, token_lengths)
        return (losses * weights.to(losses.dtype)).sum(1)
