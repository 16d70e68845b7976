"""Per-frame cross-entropy to the teacher's CTC occupancies: soft in time."""

from torch import Tensor

from espnet_softpl.criteria.base import register
from espnet_softpl.criteria.frame_ce import frame_weights, probability_ce
from espnet_softpl.criteria.transcripts import TranscriptsCriterion
from espnet_softpl.ctc import in_float32, sharpen
from espnet_softpl.ctc.confusion import confusion_network
from espnet_softpl.ctc.graph import graph_occupancies
from espnet_softpl.ctc.loss import occupancies
from espnet_softpl.labels.pseudo_label import PseudoLabel


@register("occupancy_ce")
class OccupancyCE(TranscriptsCriterion):
    """Cross-entropy to P_T(token at frame t | transcript).

    L = -sum_t sum_v g_T(v | t) log p_S(v | t), g_T = sum_n w_n gamma_T(v | t; y_n): the
    teacher's occupancies given the transcripts y_n of its N-best list (its greedy
    transcript for N = 1), w_n their normalized posteriors. The label is soft about
    where tokens are, and consistent with the transcripts. It drops what the teacher
    gives to other tokens. The gradient with respect to the student's logits is
    p_S - g_T. Over all transcripts g_T is p_T itself, and this is `soft_ce`.

    With `network`, g_T are the occupancies within the confusion network of the list, as
    `soft_ctc` has it for the student: g_T = E_{y ~ Q} gamma_T(v | t; y), Q(y) ~ W(y)
    P_T(y). The label is soft between the alternatives of a bin and 0 elsewhere. It
    drops what P_T gives to transcripts outside the network, so the gradient at
    p_S = p_T is not 0.

    Use: for soft timing of one transcript.

    Source: the posterior targets of forward-backward (soft forced alignment); here as
    a pseudo-label between `viterbi_ce` and `soft_ce`. Lattice supervision (Manohar et
    al. 2018) is the form with a network; the gradient is that of GTC (Moritz et al.
    2020, https://arxiv.org/abs/2010.15653).

    Known failure: it keeps the frames sharp, but still fixes where the tokens are. A
    label of wrong tokens is as wrong as that of `hard_ctc`. In a network the list's
    weights and P_T both count, so the label is sharper than the list.

    Args:
        temperature: Of the teacher's frames, for search and occupancies; greater than
            0.
        network: Whether the transcripts are merged into a confusion network.
    """

    frame_level = True

    def __init__(
        self,
        nbest: int = 1,
        beam_size: int | None = None,
        temperature: float = 1.0,
        network: bool = False,
    ) -> None:
        super().__init__(nbest, beam_size, temperature)
        if not isinstance(network, bool):
            raise ValueError(f"network must be true or false, got {network!r}")
        self.network = network
        self.needs_posteriors = True  # For the occupancies, of one transcript too.

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`."""
        log_probs = in_float32(log_probs)
        hypotheses = self.transcripts(pseudo_label)
        teacher = sharpen(in_float32(pseudo_label.log_probs), self.temperature)
        teacher = teacher.detach()
        if self.network:
            merged = confusion_network(*hypotheses)
            target = graph_occupancies(teacher, lengths, merged)
        else:
            target = occupancies(teacher, lengths, *hypotheses)
        weights = frame_weights(lengths, pseudo_label.frame_weight, log_probs)
        return probability_ce(log_probs, target, weights)
