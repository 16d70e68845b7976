"""The best CTC alignment of a transcript, by `viterbi_kernel` on the CPU."""

import torch
from torch import Tensor

from espnet_softpl.ctc import PADDING, in_float32, kernels


@torch.no_grad()
def viterbi(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the most probable alignment of each transcript.

    Args:
        log_probs: Frame log-posteriors, (B, T, V).
        lengths: Frames per utterance, (B,).
        tokens: Transcripts, (B, U), padded with any value.
        token_lengths: Tokens per utterance, (B,).

    Returns:
        path (B, T), one token per frame, -1 in the padding and all over where the
        transcript has no alignment; and its log-probability (B,), -inf there.

    Raises:
        ValueError: A length or a token is out of its range.
    """
    from espnet_softpl.ctc.viterbi_kernel import best_paths

    log_probs = in_float32(log_probs)
    paths = torch.full(log_probs.shape[:2], PADDING)
    scores = torch.empty(len(paths), dtype=log_probs.dtype)
    transcripts = tokens, token_lengths
    best_paths(*kernels.arrays(log_probs, lengths, *transcripts, paths, scores))
    return paths.to(log_probs.device), scores.to(log_probs.device)
