"""The teacher's transcripts with their weights: its greedy one, or an N-best list."""

import torch
from torch import Tensor

from espnet_softpl.core.ranges import at_least, positive
from espnet_softpl.criteria.base import PLCriterion
from espnet_softpl.ctc import in_float32, sharpen
from espnet_softpl.ctc.beam_search import prefix_beam_search
from espnet_softpl.labels.pseudo_label import PseudoLabel


class TranscriptsCriterion(PLCriterion):
    """What the criteria on the teacher's transcripts share: the list's settings.

    Args:
        nbest: N, at least 1.
        beam_size: Of the prefix beam search for N > 1, at least N; None takes 2 N.
        temperature: Of the teacher's frames before the search, greater than 0.

    If a shaping (`rescore`) has listed transcripts, the first N of its list are taken
    and there is no search; what the other two settings say is then not used for it.
    """

    weighs_frames = True

    def __init__(
        self, nbest: int = 4, beam_size: int | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.nbest = at_least("nbest", nbest, 1)
        self.needs_posteriors = nbest > 1
        beam_size = 2 * nbest if beam_size is None else beam_size
        self.beam_size = at_least("beam_size", beam_size, nbest)
        self.temperature = positive("temperature", temperature)

    @torch.no_grad()
    def transcripts(self, label: PseudoLabel) -> tuple[Tensor, Tensor, Tensor]:
        """List the teacher's transcripts, weighted by their posteriors within the list.

        For N = 1 it is the label's own transcript, which filters and statistics have
        seen; for more the first N of the label's list, and without a list those of a
        prefix beam search. The empty one is left out of the
        list if the label says so, unless there is no other.

        Returns:
            tokens (B, N, U) padded with -1, token_lengths (B, N), and weights (B, N),
            which sum to 1 (0 if there are fewer than N transcripts).
        """
        if self.nbest == 1:
            weights = torch.ones(len(label.tokens), 1, device=label.tokens.device)
            return label.tokens.unsqueeze(1), label.token_lengths.unsqueeze(1), weights
        tokens, token_lengths, scores = self._list(label)
        if label.excludes_empty:
            empty = token_lengths == 0
            others = (~empty & scores.isfinite()).any(-1, keepdim=True)
            scores = scores.masked_fill(empty & others, -torch.inf)
        weights = scores.softmax(-1)
        # A teacher that says NaN has no list: its loss is NaN, and the step is skipped.
        first = torch.eye(1, weights.size(1)).to(weights).expand_as(weights)
        weights = torch.where(weights.isnan(), first, weights)
        return tokens, token_lengths, weights

    def _list(self, label: PseudoLabel) -> tuple[Tensor, ...]:
        """Return the list of N with its scores: the label's, or that of a search."""
        if label.list_scores is None:
            frames = sharpen(in_float32(label.log_probs.detach()), self.temperature)
            sizes = self.nbest, self.beam_size
            return tuple(prefix_beam_search(frames, label.lengths, *sizes))
        whole = label.list_tokens, label.list_lengths, label.list_scores
        return tuple(part[:, : self.nbest] for part in whole)
