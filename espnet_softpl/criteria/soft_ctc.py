"""CTC over a confusion network of the teacher's hypotheses (SoftCTC)."""

from torch import Tensor

from espnet_softpl.criteria.base import register
from espnet_softpl.criteria.transcripts import TranscriptsCriterion
from espnet_softpl.ctc import in_float32, weigh
from espnet_softpl.ctc.confusion import confusion_network
from espnet_softpl.ctc.graph import graph_ctc
from espnet_softpl.labels.pseudo_label import PseudoLabel


@register("soft_ctc")
class SoftCTC(TranscriptsCriterion):
    """Minus the log of the student's likelihood, summed over a confusion network.

    L = -log sum_y W(y) P_S(y), y over all transcripts of the network that aligns the N
    best hypotheses bin by bin, W(y) the product of the bins' probabilities. One
    forward-backward covers all of them, also those that no single hypothesis spells.
    The gradient with respect to the student's logits is p_S - E_{y ~ Q} gamma_S(y),
    Q(y) proportional to W(y) P_S(y): the student's own belief decides between the
    alternatives, and it may settle on one of them. (`nbest_ctc` asks for all of them in
    their proportions.) A network of one hypothesis is `hard_ctc`.

    Use: for the best label measured so far, at the cost of a search.

    Source: SoftCTC (Kišš et al. 2022, https://arxiv.org/abs/2212.02135); GTC (Moritz
    et al. 2020, https://arxiv.org/abs/2010.15653).

    Known failure: because the student may choose, it is confirmed in its own errors if
    the network contains them. If every bin may be skipped, the network also spells the
    empty transcript, even if no hypothesis is empty.

    Settings: `TranscriptsCriterion`, N the hypotheses in the network.
    """

    trains_decoder = True

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`."""
        network = confusion_network(*self.transcripts(pseudo_label))
        log_probs = weigh(in_float32(log_probs), pseudo_label.frame_weight)
        return graph_ctc(log_probs, lengths, network)
