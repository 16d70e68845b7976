"""Per-frame cross-entropy to the Viterbi alignment of the teacher's transcript."""

from torch import Tensor

from espnet_softpl.criteria.base import PLCriterion, register
from espnet_softpl.criteria.frame_ce import frame_weights, path_ce
from espnet_softpl.ctc import in_float32
from espnet_softpl.ctc.viterbi import viterbi
from espnet_softpl.labels.pseudo_label import PseudoLabel


@register("viterbi_ce")
class ViterbiCE(PLCriterion):
    """Cross-entropy to the teacher's best alignment of its own greedy transcript.

    L = -sum_t log p_S(a_t | t), a = argmax of prod_t p_T(a_t | t) over the alignments
    that collapse to the transcript. The gradient with respect to the student's logits
    is p_S - onehot(a). If the transcript is the collapsed best path, a is that path and
    this equals `best_path_ce`. The two differ if the transcript was changed after
    decoding or comes from elsewhere.

    Use: to pin the alignment of transcripts that were edited.

    Source: forced alignment as in hybrid systems; a sequence-consistent form of
    per-frame hard labels. Compare `hard_ctc` to see what summing over alignments
    brings.

    Known failure: like `best_path_ce`, it pins where tokens are, which says nothing
    about the transcript. A transcript without an alignment has loss and gradient 0.
    """

    frame_level = True
    weighs_frames = True

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`."""
        log_probs = in_float32(log_probs)
        transcripts = pseudo_label.tokens, pseudo_label.token_lengths
        path, _ = viterbi(pseudo_label.log_probs, lengths, *transcripts)
        weights = frame_weights(lengths, pseudo_label.frame_weight, log_probs)
        return path_ce(log_probs, path.unsqueeze(1), weights)
