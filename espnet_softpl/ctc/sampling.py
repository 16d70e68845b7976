"""Alignments sampled from frame posteriors, the same for an utterance in any batch."""

import zlib

import torch
from torch import Tensor

from espnet_softpl.ctc import PADDING, frame_mask, in_float32


@torch.no_grad()
def sample_paths(
    log_probs: Tensor, lengths: Tensor, num_samples: int, temperature: float = 1.0
) -> Tensor:
    """Draw tokens independently per frame from softmax(log_probs / temperature).

    The draw is seeded from torch's global generator (one number per call), mixed with
    the utterance's own posteriors: neither padding nor the order or the company of
    the utterances in the batch changes it.

    Args:
        log_probs: Frame log-posteriors, (B, T, V).
        lengths: Frames per utterance, (B,).
        num_samples: K, at least 1.
        temperature: Greater than 0; towards 0 every sample is the best path.

    Returns:
        (B, K, T), -1 in the padding.
    """
    log_probs = in_float32(log_probs)
    # Shifted so that a small temperature overflows nowhere and ties stay ties.
    scores = log_probs - log_probs.amax(-1, keepdim=True)
    scores = scores.div_(temperature).exp_()
    cumulated = torch.cumsum(scores, -1, out=scores)
    total = cumulated[..., -1:]
    uniform = _uniform(log_probs, lengths, num_samples).to(cumulated)
    drawn = (uniform.transpose(1, 2) * total).contiguous()
    paths = torch.searchsorted(cumulated, drawn, right=True)
    # Rounding may put a draw at the very end of the last interval.
    paths = paths.clamp_(max=log_probs.size(-1) - 1).transpose(1, 2)
    mask = frame_mask(lengths, log_probs.size(1)).unsqueeze(1)
    return paths.masked_fill(~mask, PADDING)


def _uniform(log_probs: Tensor, lengths: Tensor, num_samples: int) -> Tensor:
    """Draw (B, K, T) numbers in [0, 1), a function of one seed and each utterance."""
    seed = int(torch.randint(2**62, ()))
    fingerprints = log_probs.amax(-1).cpu()
    uniform = torch.zeros(log_probs.size(0), num_samples, log_probs.size(1))
    for row, content, length in zip(uniform, fingerprints, lengths.tolist()):
        own = zlib.crc32(content[:length].numpy().tobytes())
        generator = torch.Generator().manual_seed(seed ^ own)
        row[:, :length] = torch.rand(num_samples, length, generator=generator)
    return uniform
