"""The teacher's transcripts with their weights: its greedy one, or an N-best list.

B utterances, N transcripts, T frames after subsampling, V tokens with blank, U labels.
"""

from __future__ import annotations

from typing import Any

import torch

from espnet_softpl.beam_search import prefix_beam_search
from espnet_softpl.criteria.base import PseudoLabel
from espnet_softpl.ctc import in_float32, sharpen
from espnet_softpl.ranges import at_least


def check_list(nbest: Any, beam_size: Any) -> tuple[int, int]:
    """Check the settings of an N-best list.

    Args:
        nbest: N, at least 1.
        beam_size: At least N, or None for 2 N.

    Returns:
        nbest and beam_size.

    Raises:
        ValueError: A value out of its range.
    """
    nbest = at_least("nbest", nbest, 1)
    return nbest, 2 * nbest if beam_size is None else at_least(
        "beam_size", beam_size, nbest
    )


@torch.no_grad()
def transcripts(
    label: PseudoLabel, nbest: int, beam_size: int, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """List the teacher's transcripts, weighted by their posteriors within the list.

    Args:
        label: The labels of B utterances.
        nbest: N, at least 1. For 1 it is the label's own transcript, which filters
            and statistics have seen; for more a prefix beam search decides.
        beam_size: Prefixes kept at each frame, at least N.
        temperature: Of the teacher's frames, greater than 0.

    Returns:
        tokens (B, N, U) padded with -1, token_lengths (B, N), and weights (B, N),
        which sum to 1 (0 where there are fewer than N transcripts).
    """
    if nbest == 1:
        weights = torch.ones_like(label.tokens[:, :1].sum(1, keepdim=True)).float()
        return label.tokens.unsqueeze(1), label.token_lengths.unsqueeze(1), weights
    frames = sharpen(in_float32(label.log_probs.detach()), temperature)
    found = prefix_beam_search(frames, label.lengths, nbest, beam_size)
    weights = found.scores.softmax(-1)
    # A teacher that says NaN has no list; its loss is NaN, and that step is skipped.
    first = torch.eye(1, nbest).to(weights).expand_as(weights)
    weights = torch.where(weights.isnan(), first, weights)
    return found.tokens, found.token_lengths, weights
