"""Leave out transcripts that are spoken much slower or faster than labeled speech."""

from torch import Tensor

from espnet_softpl.core.ranges import not_negative, positive
from espnet_softpl.filters.base import Candidate, Filter, register


@register("rate")
class Rate(Filter):
    """Keep labels whose speech rate is near that of the labeled data.

    Kept are utterances with min_ratio <= r <= max_ratio, r = tokens per second of the
    label / tokens per second of the labeled data. A teacher that skips words says too
    little for the time, and one that stutters says too much. While the labeled rate is
    unknown (NaN), nothing is dropped.

    Use: against transcripts that skip words or stutter.

    Source: ours; a floor on the speaking rate is part of a noisy-student recipe of
    WeNet (https://arxiv.org/abs/2211.04717).

    Known failure: audio with long pauses has a low rate even if its transcript is
    right, and the rate of short utterances varies most.

    Args:
        min_ratio: Lowest r, at least 0; None sets no lower limit.
        max_ratio: Highest r, greater than 0 and at least `min_ratio`; None sets no
            upper limit. At least one of the two is needed.
    """

    is_cheap = True
    needs_rate = True

    def __init__(
        self, min_ratio: float | None = None, max_ratio: float | None = None
    ) -> None:
        if min_ratio is None and max_ratio is None:
            raise ValueError("min_ratio or max_ratio must be given, got neither")
        self.low = 0.0 if min_ratio is None else not_negative("min_ratio", min_ratio)
        self.high = None if max_ratio is None else positive("max_ratio", max_ratio)
        if self.high is not None and self.high < self.low:
            raise ValueError(
                f"max_ratio must be at least min_ratio={min_ratio!r}, got {max_ratio!r}"
            )

    def __call__(self, candidate: Candidate) -> Tensor:
        """See `Filter.__call__`; 1 or 0."""
        samples = candidate.speech_lengths.clamp(min=1).double()
        rate = candidate.label.token_lengths / samples
        ratio = rate / candidate.labeled_tokens_per_sample
        drop = ratio < self.low
        if self.high is not None:
            drop = drop | (ratio > self.high)
        return (~drop).to(candidate.label.weight.dtype)
