"""Leave out utterances whose transcript depends on how it is searched for."""

from torch import Tensor

from espnet_softpl.core.ranges import at_least, not_negative
from espnet_softpl.ctc import greedy
from espnet_softpl.ctc.beam_search import prefix_beam_search
from espnet_softpl.ctc.edit_distance import distance
from espnet_softpl.filters.base import Candidate, Filter, register


@register("beam_agreement")
class BeamAgreement(Filter):
    """Keep utterances on which two decodings of the same posteriors agree.

    Kept are utterances with ED(b, g) / max(1, |g|) <= max_distance: g the greedy
    transcript (the best alignment, collapsed), b the best transcript of a prefix beam
    search (which sums alignments), ED the edit distance in tokens.

    Use: if posteriors are too sure, and the model has no dropout.

    Source: ours, in the spirit of a noisy-student recipe of WeNet
    (https://arxiv.org/abs/2211.04717), which keeps utterances whose hypotheses with and
    without a language model agree. Here there is no language model.

    Known failure: a teacher that is sure of its errors passes, because a sharp
    posterior has the same best transcript either way. It costs a search over every
    unlabeled batch.

    Args:
        beam_size: Prefixes kept at each frame, at least 1.
        max_distance: Largest distance, in edits per token of the greedy transcript, at
            least 0; it may pass 1.
    """

    def __init__(self, beam_size: int = 8, max_distance: float = 0.1) -> None:
        self.beam_size = at_least("beam_size", beam_size, 1)
        self.max_distance = not_negative("max_distance", max_distance)

    def __call__(self, candidate: Candidate) -> Tensor:
        """See `Filter.__call__`; 1 or 0."""
        label = candidate.label
        best = prefix_beam_search(label.log_probs, label.lengths, 1, self.beam_size)
        hypothesis = best.tokens[:, 0], best.token_lengths[:, 0]
        edit_rate = distance(*greedy(label.log_probs, label.lengths), *hypothesis)
        return (edit_rate <= self.max_distance).to(label.weight.dtype)
