"""Edit distances between two transcripts of each utterance, in tokens."""

import editdistance
import torch
from torch import Tensor


def edits(
    tokens: Tensor, token_lengths: Tensor, other: Tensor, other_lengths: Tensor
) -> Tensor:
    """Count the insertions, deletions and substitutions between transcripts.

    Args:
        tokens: Transcripts, (B, U), padded with any value.
        token_lengths: Tokens per utterance, (B,).
        other: Other transcripts of the same utterances, (B, U'), padded with any value.
        other_lengths: Tokens per utterance, (B,).

    Returns:
        (B,), int64, on the device of `token_lengths`.

    Raises:
        ValueError: The two batches differ in size.
    """
    batches = _lists(tokens, token_lengths), _lists(other, other_lengths)
    counts = [editdistance.eval(one, two) for one, two in zip(*batches, strict=True)]
    return torch.tensor(counts, dtype=torch.int64, device=token_lengths.device)


def distance(
    tokens: Tensor, token_lengths: Tensor, other: Tensor, other_lengths: Tensor
) -> Tensor:
    """Compute edits / max(1, token_lengths), (B,), float32; arguments as for `edits`.

    It passes 1 if the other transcript is much longer.
    """
    counts = edits(tokens, token_lengths, other, other_lengths)
    return counts.float() / token_lengths.clamp(min=1).float()


def _lists(tokens: Tensor, token_lengths: Tensor) -> list[list[int]]:
    """Return the transcripts without their padding."""
    rows = zip(tokens.tolist(), token_lengths.tolist(), strict=True)
    return [row[:length] for row, length in rows]
