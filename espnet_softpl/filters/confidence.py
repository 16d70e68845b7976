"""Leave out utterances of which the teacher is not sure enough."""

import math
from typing import Any

import torch
from torch import Tensor

from espnet_softpl.core.ranges import at_least, fraction, is_finite
from espnet_softpl.ctc import greedy
from espnet_softpl.ctc.edit_distance import edits
from espnet_softpl.filters.base import Candidate, Filter, register
from espnet_softpl.labels.confidence import utterance_confidence

# With fewer labeled utterances an error rate over the surest of them is mostly chance.
ENOUGH = 50


def calibrate(
    confidence: Tensor, errors: Tensor, tokens: Tensor, max_error: float
) -> float:
    """Find the lowest confidence down to which labels are good enough.

    Args:
        confidence: Of N utterances with known transcripts, (N,).
        errors: Edits between hypothesis and transcript, (N,).
        tokens: Tokens of the transcript, (N,).
        max_error: Highest error rate, at least 0.

    Returns:
        The lowest c among `confidence` such that the utterances with confidence >= c
        have, together, at most `max_error` errors per token; infinity if there is none.
    """
    confidence, order = confidence.sort(descending=True)
    errors = errors[order].cumsum(0)
    # Divided, not multiplied: 29 errors in 100 tokens are then exactly 0.29.
    rate = torch.where(errors == 0, 0.0, errors / tokens[order].cumsum(0))
    good = rate <= max_error
    # Equal confidences cannot be told apart: their rate is that behind the last one.
    good[:-1] &= confidence[1:] != confidence[:-1]
    return float(confidence[good][-1]) if good.any() else math.inf


@register("confidence")
class Confidence(Filter):
    """Keep utterances above a confidence that is given, or learned from labeled data.

    Kept are utterances with c >= threshold, c the geometric mean of the best posterior
    over the frames whose best token is not blank (over all if there are none).

    With `max_error` the threshold is calibrated at every labeled batch: among the last
    `window` labeled utterances it is the lowest confidence c such that those with a
    confidence of c or more have, taken together, at most `max_error` token errors per
    true token in the greedy transcript. If no c satisfies it, nothing is kept. The
    threshold never goes below the lowest confidence seen, because there are no measured
    errors below that. Until it has seen min(window, 50) labeled utterances, the filter
    keeps everything. A threshold from a handful would be chance, and keeping nothing
    would stop learning for good in a run without labeled batches. Each process
    calibrates on its own batches.

    Use: if the teacher is poor at some of the audio.

    Source: ours by utterance; APL (Zhu et al. 2023, https://arxiv.org/abs/2308.06547)
    finds wrong tokens by their confidence, with an automatic threshold from labeled
    data as a proxy.

    Known failure: the model is trained on the labeled speech, so it errs less there
    than on what is kept. On the other hand, it sees that speech augmented and with
    dropout, while a teacher sees clean audio. Shaping that changes posteriors
    (`sharpen`, `align`, `blank`) changes the confidence of labels but not that of
    labeled utterances. An empty transcript has the confidence of its blanks, so combine
    this filter with `tokens`.

    Args:
        threshold: Lowest confidence, in [0, 1].
        max_error: Highest token error rate of what is kept, in (0, 1]. Exactly one of
            the two must be given.
        window: Labeled utterances that are remembered for `max_error`, at least 1.
    """

    is_cheap = True

    def __init__(
        self,
        threshold: float | None = None,
        max_error: float | None = None,
        window: int = 500,
    ) -> None:
        if (threshold is None) == (max_error is None):
            raise ValueError(
                f"exactly one of threshold and max_error must be given, got "
                f"threshold={threshold!r}, max_error={max_error!r}"
            )
        self.window = at_least("window", window, 1)
        self.max_error = max_error
        self.needs_labeled = max_error is not None
        # Rows of confidence, errors and true tokens, the oldest first.
        self._observed = torch.zeros(0, 3, dtype=torch.float64)
        if max_error is None:
            self.threshold = fraction("threshold", threshold)
        elif not (is_finite(max_error) and 0.0 < max_error <= 1.0):
            raise ValueError(f"max_error must be a number in (0, 1], got {max_error!r}")
        else:
            self._remember(self._observed)

    def __call__(self, candidate: Candidate) -> Tensor:
        """See `Filter.__call__`; 1 or 0."""
        label = candidate.label
        confidence = utterance_confidence(label.log_probs, label.lengths)
        return (confidence >= self.threshold).to(label.weight.dtype)

    @torch.no_grad()
    def observe(
        self, log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> None:
        """See `Filter.observe`; utterances with NaN for posteriors are passed over."""
        if not self.needs_labeled:
            return
        confidence = utterance_confidence(log_probs, lengths)
        errors = edits(*greedy(log_probs, lengths), tokens, token_lengths)
        rows = [column.double().cpu() for column in (confidence, errors, token_lengths)]
        new = torch.stack(rows, dim=1)
        self._remember(torch.cat([self._observed, new[~new[:, 0].isnan()]]))

    def state_dict(self) -> dict[str, Any]:
        """See `Filter.state_dict`: the window, if there is one."""
        return {"observed": self._observed.clone()} if self.needs_labeled else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Filter.load_state_dict`."""
        if self.needs_labeled:
            self._remember(state["observed"].to(self._observed))

    def _remember(self, observed: Tensor) -> None:
        """Keep the last rows, and set the threshold by them."""
        self._observed = observed[-self.window :].clone()
        if len(self._observed) < min(self.window, ENOUGH):
            self.threshold = 0.0
        else:
            self.threshold = calibrate(*self._observed.unbind(1), self.max_error)
