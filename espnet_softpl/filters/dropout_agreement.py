"""Leave out transcripts that change when the teacher labels with dropout."""

import torch
from torch import Tensor

from espnet_softpl.core.ranges import at_least, not_negative
from espnet_softpl.ctc.edit_distance import distance
from espnet_softpl.filters.base import Candidate, Filter, register


@register("dropout_agreement")
class DropoutAgreement(Filter):
    """Keep labels that a teacher with dropout confirms.

    Kept are utterances with max_n ED(y_n, y) / max(1, |y|) <= max_distance: y the
    label's transcript, y_1 .. y_N the greedy transcripts of N passes of the teacher
    over the same audio with dropout on, ED the edit distance in tokens. An empty label
    is kept only if hardly any token is said under dropout.

    Use: if posteriors are too sure to be trusted.

    Source: DUST (https://arxiv.org/abs/2011.13439), which keeps an utterance only if
    the hypotheses with and without dropout agree; the measure and the settings are
    ours.

    Known failure: can fail under a strong mismatch of domains, depending on how well
    the model is calibrated (https://arxiv.org/abs/2211.07795); without dropout in the
    model everything is kept. It costs `samples` more teacher passes per unlabeled
    batch.

    Args:
        samples: N, at least 1.
        max_distance: Largest distance, in edits per token of the label, at least 0; it
            may pass 1.
    """

    needs_dropout = True

    def __init__(self, samples: int = 3, max_distance: float = 0.3) -> None:
        self.samples = at_least("samples", samples, 1)
        self.max_distance = not_negative("max_distance", max_distance)

    def __call__(self, candidate: Candidate) -> Tensor:
        """See `Filter.__call__`; 1 or 0."""
        label = candidate.label
        highest = torch.zeros_like(label.lengths, dtype=torch.float32)
        for _ in range(self.samples):
            noisy = candidate.relabel()
            hypothesis = noisy.tokens, noisy.token_lengths
            edit_rate = distance(label.tokens, label.token_lengths, *hypothesis)
            highest = torch.maximum(highest, edit_rate)
        return (highest <= self.max_distance).to(label.weight.dtype)
