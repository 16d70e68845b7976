"""Leave out transcripts that the frames cannot hold."""

from torch import Tensor

from espnet_softpl.core.ranges import at_least
from espnet_softpl.ctc import min_frames
from espnet_softpl.filters.base import Candidate, Filter, register


@register("feasible")
class Feasible(Filter):
    """Keep transcripts that have a CTC alignment in the utterance's frames.

    Kept are utterances with min_frames(y) + slack <= T, min_frames the tokens and one
    blank between two equal neighbors. The greedy transcript of a label's own frames
    always has an alignment. One from elsewhere (your own shaping, another model,
    another frame rate) may not.

    Use: with transcripts that are not the teacher's own.

    Source: CTC itself, whose probability of such a transcript is 0; the slack is ours.

    Known failure: it says nothing about a transcript that fits but is wrong.

    Args:
        slack: Frames that must be left over, at least 0.
    """

    is_cheap = True

    def __init__(self, slack: int = 0) -> None:
        self.slack = at_least("slack", slack, 0)

    def __call__(self, candidate: Candidate) -> Tensor:
        """See `Filter.__call__`; 1 or 0."""
        label = candidate.label
        needed = min_frames(label.tokens, label.token_lengths) + self.slack
        return (needed <= label.lengths).to(label.weight.dtype)
