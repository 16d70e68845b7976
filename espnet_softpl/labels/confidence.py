"""How sure a teacher is of frames, tokens and utterances."""

import torch
from torch import Tensor

from espnet_softpl.ctc import BLANK, PADDING, frame_mask, in_float32


def frame_confidence(log_probs: Tensor) -> Tensor:
    """Return the best token's posterior of every frame: (B, T, V) to (B, T)."""
    return in_float32(log_probs.amax(-1)).exp()


def token_confidence(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Return, for every frame, the highest posterior in its run of the best path.

    A run is a stretch of frames with the same best token: all frames of a token, or of
    a pause, get the same value, (B, T); any value stands in the padding.
    """
    path = log_probs.argmax(-1)
    # The padding is a run of its own, whatever it holds.
    path = path.masked_fill(~frame_mask(lengths, path.size(1)), PADDING)
    starts = torch.zeros_like(path)
    starts[:, 1:] = path[:, 1:] != path[:, :-1]
    run = starts.cumsum(1)
    confidence = frame_confidence(log_probs)
    highest = torch.zeros_like(confidence).scatter_reduce(1, run, confidence, "amax")
    return highest.gather(1, run)


def utterance_confidence(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Return the geometric mean, (B,), of the best posteriors of frames with a token.

    These are the frames whose best token is not blank, or all if there are none.
    """
    best, path = log_probs.max(-1)
    mask = frame_mask(lengths, path.size(1))
    spoken = mask & (path != BLANK)
    used = torch.where(spoken.any(1, keepdim=True), spoken, mask)
    # A running sum goes frame by frame: the padded T cannot change its rounding.
    total = torch.where(used, in_float32(best), 0.0).cumsum(1)[:, -1]
    return (total / used.sum(1).clamp(min=1)).exp()
