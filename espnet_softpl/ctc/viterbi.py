"""The best CTC alignment of a transcript, by `viterbi_kernel` on the CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_softpl.ctc import BLANK, PADDING, in_float32, kernels


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
    num_tokens = log_probs.size(2)
    # What frames say of blank and of each label: (B, T, 1 + U).
    index = F.pad(tokens.clamp(0, num_tokens - 1), (1, 0), value=BLANK).unsqueeze(1)
    frames = log_probs.gather(2, index.expand(-1, log_probs.size(1), -1))
    paths = torch.full(log_probs.shape[:2], PADDING)
    scores = torch.empty(len(paths), dtype=log_probs.dtype)
    given = kernels.arrays(frames, lengths, tokens, token_lengths, paths, scores)
    kernels.for_utterances(
        lambda part: best_paths(num_tokens, *(array[part] for array in given)),
        len(paths),
    )
    return paths.to(log_probs.device), scores.to(log_probs.device)
