"""Give a label the transcripts of several passes of the teacher with dropout."""

from collections.abc import Callable

import torch
from torch import Tensor

from espnet_softpl.core.ranges import at_least
from espnet_softpl.ctc import PADDING
from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.shaping.base import Shaping, register


def count_votes(tokens: Tensor) -> Tensor:
    """Count how often each transcript is said, (B, K, U) padded with -1 -> (B, K).

    Said again, a transcript has 0 votes: the first time counts for all.
    """
    same = (tokens.unsqueeze(2) == tokens.unsqueeze(1)).all(3)  # (B, K, K)
    is_repeated = same.tril(-1).any(2)
    return same.sum(2).masked_fill(is_repeated, 0)


def _widen(tokens: Tensor, width: int) -> Tensor:
    """Pad transcripts, (B, U), to a greater U."""
    return torch.nn.functional.pad(tokens, (0, width - tokens.size(1)), value=PADDING)


@register("votes")
class Votes(Shaping):
    """The transcripts on which K passes of the teacher with dropout agree.

    w_y = (passes whose greedy transcript is y) / K. The list becomes part of the label,
    most votes first (on a tie, what was said first). A cache keeps it, and `soft_ctc`,
    `nbest_ctc` and `occupancy_ce` take the first `nbest` of it (their own setting, K
    for all) instead of a search. `nbest_ctc` is then the mean over passes of `hard_ctc`
    on their transcripts. The label's transcript is the one with most votes. With
    `hard_ctc` it is the hard label of the same information, and filters see it. The
    posteriors stay as they are, without dropout; changes by other shapings do not reach
    the passes.

    Use: against what one pass says by chance.

    Source: ours. Votes of recognizers, aligned word by word, are ROVER (Fiscus 1997);
    passes with dropout as a measure of doubt are DUST's
    (https://arxiv.org/abs/2011.13439).

    Known failure: passes of one model share its errors, and if dropout hardly changes
    anything, the list is one transcript. Long utterances seldom get the same transcript
    twice. Then each has one vote, and only a network sees where they agree. `votes`
    costs K more passes of the teacher for each unlabeled batch.

    Args:
        passes: K, at least 2.
    """

    makes_list = True
    needs_dropout = True

    def __init__(self, passes: int = 5) -> None:
        self.passes = at_least("passes", passes, 2)

    @torch.no_grad()
    def __call__(
        self, label: PseudoLabel, relabel: Callable[[], PseudoLabel]
    ) -> PseudoLabel:
        """See `Shaping.__call__`."""
        passes = (relabel() for _ in range(self.passes))
        said = [(noisy.tokens, noisy.token_lengths) for noisy in passes]
        width = max(tokens.size(1) for tokens, _ in said)
        tokens = torch.stack([_widen(tokens, width) for tokens, _ in said], 1)
        token_lengths = torch.stack([lengths for _, lengths in said], 1)
        votes, order = count_votes(tokens).sort(dim=1, descending=True, stable=True)
        rows = torch.arange(len(order), device=order.device).unsqueeze(1)
        repeated = votes == 0
        tokens = tokens[rows, order].masked_fill(repeated.unsqueeze(2), PADDING)
        token_lengths = token_lengths.gather(1, order).masked_fill(repeated, 0)
        dtype = torch.promote_types(label.log_probs.dtype, torch.float32)
        scores = (votes.to(dtype) / self.passes).log()
        return label.with_list(tokens, token_lengths, scores)
