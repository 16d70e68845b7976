"""Leave out transcripts that are too short or too long."""

from torch import Tensor

from espnet_softpl.core.ranges import at_least
from espnet_softpl.filters.base import Candidate, Filter, register


@register("tokens")
class TokenCount(Filter):
    """Leave out transcripts with too few or too many tokens.

    An empty transcript teaches CTC to say blank at every frame, which makes more
    transcripts empty. By default they are left out, whatever the criterion. They are
    also left out of the N-best lists and samples of the utterances that are kept, and
    the others of a list share their weight.

    Use: always; it is the default.

    Source: ours.

    Known failure: a short transcript is not necessarily wrong. A high `min_tokens`
    leaves out short answers, so they are learned from labeled data only.

    Args:
        min_tokens: Fewest tokens that are kept, at least 0; 0 sets no lower limit.
        max_tokens: Most tokens that are kept, at least `min_tokens`; None sets no upper
            limit.
        alternatives: Whether the empty transcript is left out of lists and samples too,
            if `min_tokens` is at least 1; true or false.
    """

    is_cheap = True

    def __init__(
        self,
        min_tokens: int = 1,
        max_tokens: int | None = None,
        alternatives: bool = True,
    ) -> None:
        self.min_tokens = at_least("min_tokens", min_tokens, 0)
        if max_tokens is not None:
            at_least("max_tokens", max_tokens, min_tokens)
        self.max_tokens = max_tokens
        if not isinstance(alternatives, bool):
            raise ValueError(f"alternatives must be true or false, got {alternatives}")
        self.excludes_empty = alternatives and min_tokens > 0

    def __call__(self, candidate: Candidate) -> Tensor:
        """See `Filter.__call__`; 1 or 0."""
        count = candidate.label.token_lengths
        keep = count >= self.min_tokens
        if self.max_tokens is not None:
            keep = keep & (count <= self.max_tokens)
        return keep.to(candidate.label.weight.dtype)
